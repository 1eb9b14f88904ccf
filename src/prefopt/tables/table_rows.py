"""Tables larger than memory should be: rows decoded when they are read, tables on files that are mapped, not read.

Python objects take some kilobytes per pair, Arrow about as much as the text; on a mapped file that is the system's to
keep or to drop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError
from prefopt.tables.columns import COLUMNS, arrow_type
from prefopt.tables.records import Row, as_dataset, decode_rows, make_table

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Kept = Sequence[bool] | NDArray[np.bool_]  # [N], of the rows of a table
# rows that are decoded at a time when all are walked through
MAPPED_ROWS = 2**13  # from here on a table that is read lies on a mapped file


CHUNK_ROWS = 256
# rows of a Parquet file that are decoded at a time on the way to a mapped one
BATCH_ROWS = 2**11


class TableRows(Sequence[Row]):
    """`records.rows_of` without the list: a row is decoded when it is asked for."""

    def __init__(self, table: Dataset) -> None:
        self._table: pa.Table = table.data.table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, int):
            place = range(len(self))[index]
            return decode_rows(self._table.slice(place, 1))[0]
        start, stop, step = index.indices(len(self))
        return decode_rows(self._table.slice(start, max(stop - start, 0)))[::step]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), CHUNK_ROWS):
            yield from self[start : start + CHUNK_ROWS]


def has_stored_types(table: Dataset) -> bool:
    """Whether the columns have the types that `make_table` gives them, so that it has nothing to do."""
    for field in table.data.table.schema:
        if field.name in COLUMNS:
            kind = COLUMNS[field.name].kind
            if field.type not in (arrow_type(kind, True), arrow_type(kind, False)):
                return False
        elif "struct" in str(field.type):
            return False
    return True


def with_stored_types(table: Dataset) -> Dataset:
    """The table with the types that `make_table` gives it, to the names within them (Parquet calls a list's otherwise)."""
    if not has_stored_types(table):
        return make_table(TableRows(table)[:])
    own = table.data.table
    import pyarrow as pa

    return as_dataset(own.cast(pa.schema([field.with_type(_plain(field.type)) for field in own.schema])))


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(_plain(kind.value_type)) if pa.types.is_list(kind) else kind


def mapped(schema: pa.Schema, write: Callable[[Callable[[pa.RecordBatch], None]], Any]) -> pa.Table:
    """The table of the batches that `write` hands to its argument, on a mapped Arrow file without a name.

    The file lies where `datasets` keeps its own (HF_DATASETS_CACHE), and goes with the table.
    """
    import pyarrow as pa
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=folder, suffix=".arrow")  # noqa: SIM115 (closed below)
    except OSError:  # a read-only home
        file = tempfile.NamedTemporaryFile(suffix=".arrow")  # noqa: SIM115
    with file:
        with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            write(stream.write_batch)
        return pa.ipc.open_stream(pa.memory_map(file.name)).read_all()


def mapped_files(files: Sequence[Path]) -> pa.Table:
    """The rows of Parquet files on a mapped Arrow file (several files, if their columns agree)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path) for path in files]
    if any(schema != schemas[0] for schema in schemas):
        return pa.concat_tables([pq.read_table(path) for path in files], promote_options="permissive")

    def write(add: Callable[[pa.RecordBatch], None]) -> None:
        for path in files:
            with pq.ParquetFile(path) as source:
                for group in range(source.num_row_groups):  # all at once would be read ahead, by threads
                    for batch in source.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                        add(batch)

    table = mapped(schemas[0], write)
    pa.default_memory_pool().release_unused()
    return table


def with_columns(
    table: Dataset, added: Dataset, kept: Kept | None = None, first: Sequence[str] = ()
) -> Dataset:
    """The table with the columns of `added` (in place of its own of that name), in the order of `make_table`.

    added: one row per kept row. kept: rows of `table` to keep (None: all). first: columns that stand before all others.
    """
    import pyarrow as pa

    own = table.data.table if kept is None or all(kept) else kept_rows(table.data.table, kept)
    columns: dict[str, Any] = {name: own.column(name) for name in own.column_names}
    columns |= {name: added.data.table.column(name) for name in added.column_names}
    order = [*first, *(name for name in COLUMNS if name in columns and name not in first)]
    order += [name for name in columns if name not in COLUMNS and name not in first]
    return as_dataset(pa.table({name: columns[name] for name in order}))


def kept_rows(table: pa.Table, kept: Kept) -> pa.Table:
    """The rows of a table that are to be kept, on a mapped file."""
    import pyarrow as pa

    def write(add: Callable[[pa.RecordBatch], None]) -> None:
        start = 0
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            add(batch.filter(pa.array(kept[start : start + batch.num_rows], pa.bool_())))
            start += batch.num_rows

    return mapped(table.schema, write)


def joined_tables(parts: Iterable[pa.Table]) -> Dataset:
    """One table, on a mapped file, of one or more with the same columns."""
    walk = iter(parts)
    start = next(walk)

    def write(add: Callable[[pa.RecordBatch], None]) -> None:
        for group in regrouped(chain((start,), walk), BATCH_ROWS):
            for batch in group.to_batches():
                add(batch)

    return as_dataset(mapped(start.schema, write))


def regrouped(parts: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of `parts`, in tables of `rows` rows (the last one: of fewer)."""
    import pyarrow as pa

    held: list[pa.Table] = []
    room = rows
    for part in parts:
        while part.num_rows >= room:
            yield pa.concat_tables([*held, part.slice(0, room)]).combine_chunks()
            part, held, room = part.slice(room), [], rows
        if part.num_rows:
            held.append(part)
            room -= part.num_rows
    if held:
        yield pa.concat_tables(held).combine_chunks()


def part_table(rows: Sequence[Row], names: Sequence[str]) -> pa.Table:
    """A table of `names` alone; where a row lacks one, it is null."""
    return make_table([{name: row.get(name) for name in names} for row in rows], names).data.table


def read_table(paths: Path | Sequence[Path]) -> Dataset:
    """Read one or several Parquet files written by `write_table` (or any Parquet with these columns)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [paths] if isinstance(paths, Path) else list(paths)
    try:
        if sum(pq.read_metadata(path).num_rows for path in files) >= MAPPED_ROWS:
            return as_dataset(mapped_files(files))
        tables = [pq.read_table(path) for path in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise PrefoptError(
            f"{files[0]}: not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None
    return as_dataset(pa.concat_tables(tables, promote_options="permissive").combine_chunks())
