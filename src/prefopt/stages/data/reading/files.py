"""Single files -> raw rows, one function per kind of file; `readers.py` decides which file and which function.

Each yields `(row, where)`. Every way in which bytes, lines and cells can be broken is a `PrefoptError` in one line.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.strict_json import parse_array, parse_json
from prefopt.tables.records import Row

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Iterator[tuple[Row, str]]
BATCH = 1000  # rows of a Parquet file held at a time
MAX_FIELD_CHARS = (
    2**31 - 1
)  # of one csv cell; the csv module's own default of 131072 is shorter than a long dialogue
_GZIP = b"\x1f\x8b"


def unreadable(path: Path, error: Exception) -> PrefoptError:
    """The error for a path that the system will not give."""
    reason = getattr(error, "strerror", None) or str(error)
    return PrefoptError(f"{str(path)!r}: cannot be read ({one_line(reason)}); check path and permissions")


def one_line(text: Any) -> str:
    """The first line of a library's message, without a closing full stop."""
    lines = str(text).strip().splitlines() or [""]
    return lines[0][:200].rstrip(" .;")


# ---- bytes and lines


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked; every way in which bytes can fail becomes a `PrefoptError`."""
    named_gz = path.name.lower().endswith(".gz")
    try:
        with open(path, "rb") as raw:
            is_gzip = raw.peek(2)[:2] == _GZIP
            if named_gz and not is_gzip:
                raise PrefoptError(
                    f"{path}: named .gz but is not gzip; remove .gz from the name, or pack the file"
                )
            if is_gzip and not named_gz:
                raise PrefoptError(f"{path}: is gzip; rename it to {path.name}.gz")
            yield gzip.GzipFile(fileobj=raw) if is_gzip else raw  # type: ignore[misc]
    except EOFError:
        raise PrefoptError(f"{path}: the gzip file is cut off; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise PrefoptError(
            f"{path}: the gzip file is damaged ({one_line(error)}); copy or download it again"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PrefoptError(
            f"{where}: not UTF-8 (byte {error.start + 1} of it); save the file as UTF-8"
        ) from None


def _lines(file: IO[bytes], path: Path) -> Iterator[tuple[str, str]]:
    """`(line, where)`; a byte order mark at the start of the file is taken off."""
    for number, data in enumerate(file, start=1):
        where = f"{path}: row {number}"
        line = _decode(data, where)
        yield (line.removeprefix("\ufeff") if number == 1 else line), where


# ---- JSON


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        kinds = {list: "an array", str: "text", bool: "true or false", type(None): "null"}
        kind = kinds.get(type(value), "a number")
        raise PrefoptError(f"{where}: is {kind}, expected an object {{...}} per row")
    return value


def json_lines(path: Path, split: str | None = None) -> Rows:
    """One JSON object per line, read line by line; blank lines count but hold no row."""
    with _opened(path) as file:
        for line, where in _lines(file, path):
            if line.strip():
                yield _as_row(parse_json(line.strip(), where), where), where


def json_file(path: Path, split: str | None) -> Rows:
    """An array of objects; an object with an array under `split` (default "data"); or JSON lines."""
    with _opened(path) as file:
        text = _decode(file.read(), str(path)).removeprefix("\ufeff").strip()
    first, _, rest = text.partition("\n")
    if rest.strip() and _is_whole_object(first):  # JSON lines under the name .json, as often seen
        yield from json_lines(path)
        return
    if text.startswith("["):
        if split is not None:
            raise PrefoptError(
                f"{path}: split {split!r} was asked for, but the file is one array; leave data.split out"
            )
        rows = parse_array(text, str(path))
    else:
        values = _named_array(parse_json(text, str(path)), split, path)
        rows = ((value, f"{path}: row {number}") for number, value in enumerate(values, start=1))
    for value, where in rows:
        yield _as_row(value, where), where


def _is_whole_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _named_array(value: Any, split: str | None, path: Path) -> list[Any]:
    if not isinstance(value, dict):
        raise PrefoptError(f"{path}: holds no array of rows; give [{{...}}, ...] or one object per line")
    key = split or "data"
    if not isinstance(value.get(key), list):
        arrays = [name for name, inner in value.items() if isinstance(inner, list)]
        found = f"; arrays in it (data.split picks one): {', '.join(arrays[:8])}" if arrays else ""
        raise PrefoptError(
            f'{path}: the object has no array {key!r}; give [...] or {{"{key}": [...]}}{found}'
        )
    return value[key]


# ---- CSV


def csv_file(path: Path, split: str | None = None) -> Rows:
    """Comma or tab separated cells below a header line; all values are texts."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        with _opened(path) as file:
            lines = csv.reader((line for line, _ in _lines(file, path)), delimiter=delimiter, strict=True)
            yield from _csv_rows(lines, path)
    finally:
        csv.field_size_limit(before)


def _csv_rows(lines: Any, path: Path) -> Rows:
    header = None
    while True:
        where = f"{path}: row {lines.line_num + 1}"
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise PrefoptError(
                f"{where}: not valid csv ({one_line(error)}); mend the quotes of this row"
            ) from None
        if cells is None:
            return
        if header is None:
            header = _header(cells, path)
        elif len(cells) not in (0, len(header)):
            counts = f"{len(cells)} cells, but the header has {len(header)}"
            raise PrefoptError(f"{where}: {counts}; quote cells that hold the delimiter")
        elif cells:
            yield {name: _cell(cell, where) for name, cell in zip(header, cells, strict=True)}, where


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not all(names) or len(set(names)) < len(names) or any(len(name) > 64 for name in names):
        raise PrefoptError(
            f"{path}: row 1 is no header; the first line must name the columns, e.g. prompt,chosen,rejected"
        )
    return names


def _cell(cell: str, where: str) -> Any:
    """Text, except that a cell which holds a JSON list of messages is decoded."""
    if not cell.startswith('[{"'):
        return cell
    try:
        value = parse_json(cell, where)
    except PrefoptError:
        return cell
    return value if all(isinstance(v, dict) and ("role" in v or "from" in v) for v in value) else cell


# ---- Arrow: Parquet files and hub data sets


def parquet_file(path: Path, split: str | None = None) -> Rows:
    """Rows of a Parquet file, `BATCH` in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from batch_rows(file.iter_batches(batch_size=BATCH), str(path))
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        problem = f"not a readable Parquet file ({one_line(error)})"
        raise PrefoptError(f"{path}: {problem}; write or download it again") from None


def batch_rows(batches: Iterable[pa.Table | pa.RecordBatch], source: str) -> Rows:
    """Rows of Arrow tables or batches, as plain JSON-like values.

    Raises:
        PrefoptError: a column stands twice; a row could hold one of the two only.
    """
    number = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise PrefoptError(f"{source}: column {twice!r} stands twice; remove or rename one")
        for raw in batch.to_pylist():
            number += 1
            yield {name: plain(value) for name, value in raw.items()}, f"{source}: row {number}"


def plain(value: Any) -> Any:
    """Arrow's Python values as JSON has them. Null entries of nested objects go: Arrow fills in every key it knows."""
    if isinstance(value, dict):
        kept = {key: plain(inner) for key, inner in value.items() if inner is not None}
        if set(value) == {"role", "content", "more"}:  # a message as our own tables store it
            kept.update(json.loads(kept.pop("more", "{}")))
        return kept
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        text = value.decode("utf-8", errors="replace")
        return base64.b64encode(value).decode() if "\ufffd" in text else text
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)  # dates, times, decimals
