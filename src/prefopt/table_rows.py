"""Tables larger than memory should be: rows decoded when they are read, tables on files that are mapped, not read.

Python objects take some kilobytes per pair, Arrow about as much as the text; on a mapped file that is the system's to
keep or to drop.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from prefopt.columns import COLUMNS, arrow_type
from prefopt.records import Row, decode_rows, make_table

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# rows that are decoded at a time when all are walked through
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


def with_columns(table: Dataset, added: Dataset, kept: Sequence[bool] | None = None) -> Dataset:
    """The table with the columns of `added` (in place of its own of that name), in the order of `make_table`.

    added: one row per kept row. kept: rows of `table` to keep (None: all).
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    own = table.data.table
    if kept is not None and not all(kept):
        own = own.filter(pa.array(kept))
    columns: dict[str, Any] = {name: own.column(name) for name in own.column_names}
    columns |= {name: added.data.table.column(name) for name in added.column_names}
    order = [name for name in COLUMNS if name in columns] + [name for name in columns if name not in COLUMNS]
    return Dataset(InMemoryTable(pa.table({name: columns[name] for name in order})))


def joined_tables(parts: Iterable[pa.Table]) -> Dataset:
    """One table of several with the same columns."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(pa.concat_tables(parts).combine_chunks()))


def part_table(rows: Sequence[Row], names: Sequence[str]) -> pa.Table:
    """A table of `names` alone; where a row lacks one, it is null."""
    return make_table([{name: row.get(name) for name in names} for row in rows], names).data.table
