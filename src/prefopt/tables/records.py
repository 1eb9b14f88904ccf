"""Tables <-> rows <-> Parquet.

A table is a `datasets.Dataset`; inside a stage it is a list of plain dicts (rows). Every column that a stage reads or
adds stands in `columns.COLUMNS`; other columns of the user's data travel along untouched. A text column that may hold a
conversation (`prompt`, `chosen`, `rejected`) is a string in every row of a table, or a message list in every row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.columns import COLUMNS, Column, arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Row = dict[str, Any]
MARK = {b"prefopt": b"table 1"}
GROUP_ROWS = 2**13  # rows of a group of a Parquet file


def to_json(value: Any) -> str:
    """Compact JSON with sorted keys: one text for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _stored_json(value: Any) -> str:
    """JSON text in the user's own key order: a chat template shows tools in the order in which they were written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _store_message(message: Mapping[str, Any]) -> Row:
    more = {k: v for k, v in message.items() if k not in {"role", "content"} and v is not None}
    return {
        "role": message["role"],
        "content": message.get("content"),
        "more": _stored_json(more) if more else None,
    }


def _load_message(stored: Mapping[str, Any]) -> Row:
    message: Row = {"role": stored["role"], "content": stored["content"]}
    if stored.get("more"):
        message.update(json.loads(stored["more"]))
    return message


def _known_array(name: str, column: Column, values: list[Any]) -> pa.Array:
    import pyarrow as pa

    is_text = not any(isinstance(v, list) for v in values)
    if column.kind == "content" and not is_text and any(isinstance(v, str) for v in values):
        raise PrefoptError(
            f"column {name!r}: text and message rows are mixed; make all rows the one or the other"
        )
    if column.kind == "int" and any(isinstance(v, float) and not v.is_integer() for v in values):
        raise PrefoptError(
            f"column {name!r}: expected int values, found a fraction"
        )  # Arrow would cut it off
    try:
        if column.kind == "json":
            values = [None if v is None else _stored_json(v) for v in values]
        elif column.kind == "content" and not is_text:
            values = [None if v is None else [_store_message(m) for m in v] for v in values]
        return pa.array(values, type=arrow_type(column.kind, is_text))
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # ValueError: half a surrogate pair too
        raise PrefoptError(f"column {name!r}: expected {column.kind} values ({error})") from None


def _extra_array(values: list[Any]) -> pa.Array:
    """A user's own column: Arrow's inferred type where there is one, else JSON text."""
    import pyarrow as pa

    try:
        array = pa.array(values, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        array = None
    if array is None or (pa.types.is_nested(array.type) and "struct" in str(array.type)):
        return pa.array([None if v is None else _stored_json(v) for v in values], type=pa.string())
    return array


def make_table(rows: Sequence[Row], names: Sequence[str] = ()) -> Dataset:
    """Rows -> table. Column order: `names`, then the vocabulary's order, then the user's own, by first appearance.

    `names` must be in the vocabulary; they exist in the result even when there is no row.
    """
    import pyarrow as pa

    present: dict[str, None] = {}
    for row in rows:
        present.update(dict.fromkeys(row))
    order = [*names, *(c for c in COLUMNS if c in present and c not in names)]
    order += [c for c in present if c not in COLUMNS and c not in names]
    for name in order:
        if "\0" in name:  # Parquet would cut the name there
            raise PrefoptError(
                f"column {name!r}: a name with a zero byte cannot be stored; rename the column"
            )
    arrays = []
    for name in order:
        values = [row.get(name) for row in rows]
        known = COLUMNS.get(name)
        arrays.append(_known_array(name, known, values) if known else _extra_array(values))
    return as_dataset(pa.Table.from_arrays(arrays, names=list(order)))


def as_dataset(table: pa.Table) -> Dataset:
    """An Arrow table as a table of `datasets`, without a copy.

    Given no fingerprint, `datasets` takes a digest of all rows, for which it pickles them in memory.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table), fingerprint=generate_random_fingerprint())


def rows_of(table: Dataset) -> list[Row]:
    """Table -> rows: messages as `{role, content, ...}`, JSON columns decoded."""
    return decode_rows(table.data.table)


def decode_rows(table: pa.Table) -> list[Row]:
    """`rows_of` for an Arrow table."""
    columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    for name, values in columns.items():
        kind = COLUMNS[name].kind if name in COLUMNS else ""
        if kind == "json":
            columns[name] = [None if v is None else json.loads(v) for v in values]
        elif kind == "content":
            columns[name] = [[_load_message(m) for m in v] if isinstance(v, list) else v for v in values]
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def require(table: Dataset, names: Iterable[str], where: str) -> None:
    """Raise `PrefoptError` naming the first missing column and the stage that makes it."""
    for name in names:
        if name not in table.column_names:
            maker = COLUMNS[name].stage
            raise PrefoptError(f"{where}: column {name!r} is missing; run `prefopt {maker}` first")


def write_table(table: Dataset, path: Path) -> None:
    """Write Parquet so that a kill, a full or a read-only disk leaves the old file or none, never half of one."""
    whole = table.data.table
    groups = (whole.slice(start, GROUP_ROWS) for start in range(0, max(whole.num_rows, 1), GROUP_ROWS))
    write_groups(groups, whole.schema, path)


def write_groups(groups: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """`write_table` for rows that come in groups, one in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    marked = schema.with_metadata(MARK)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, marked, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.combine_chunks().replace_schema_metadata(MARK))
            if group.num_rows >= GROUP_ROWS:  # of a large table
                pa.default_memory_pool().release_unused()


def is_ours(path: Path) -> bool:
    """Whether a Parquet file was written by `write_table`, so that its columns are of the vocabulary's types.

    Raises:
        PrefoptError: not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise PrefoptError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return MARK.items() <= found.items()


class atomic_file:
    """Context: gives a temporary path beside `path`, moved over it on success, removed on failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrefoptError(
                f"{self.path.parent}: cannot be made ({error.strerror}); choose another --output"
            ) from None
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                with open(self.temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
            except OSError as late:
                error = late
            else:
                return
        self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise PrefoptError(
                f"{self.path}: cannot be written ({reason}); nothing was left half-written"
            ) from None


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder (a disk may be read-only for everybody). True where it does not exist yet."""
    return not folder.is_dir() or os.access(folder, os.W_OK)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def digest(*values: Any) -> str:
    """SHA-256 (hex) of any JSON-like values; equal values give equal digests on every machine."""
    return hashlib.sha256("\0".join(to_json(v) for v in values).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
