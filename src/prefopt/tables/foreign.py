"""Rows of other people's objects: tables of `datasets`, pandas frames, lists of dicts; and the same as a JSON-lines file."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.records import Row, atomic_file, digest, rows_of
from prefopt.tables.table_rows import has_stored_types


def foreign_rows(given: Any, where: str = "data") -> list[Row]:
    """The rows of a `datasets.Dataset`, a pandas DataFrame or an iterable of mappings.

    Tables of ours are decoded (messages, JSON columns); pandas' NaN and NaT are missing values.

    Raises:
        PrefoptError: another object, several splits, or a row that is no mapping.
    """
    if isinstance(given, Mapping):
        what = "several splits" if hasattr(given, "num_rows") else "columns"
        raise PrefoptError(
            f"{where}: a mapping ({what}); give one table: a Dataset, a DataFrame or a list of dicts"
        )
    if hasattr(given, "column_names") and hasattr(given, "to_list"):
        return rows_of(given) if has_stored_types(given) else given.to_list()
    if hasattr(given, "to_dict") and hasattr(given, "columns"):
        rows = given.to_dict(orient="records")
        return [{str(name): _plain(value) for name, value in row.items()} for row in rows]
    if isinstance(given, str | bytes | Path) or not isinstance(given, Iterable):
        raise PrefoptError(
            f"{where}: a {type(given).__name__}; give a Dataset, a DataFrame, a list of dicts or the path of a file"
        )
    rows = list(given)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise PrefoptError(f"{where}: row {number} is a {type(row).__name__}; rows are dicts of columns")
    return [dict(row) for row in rows]


def _plain(value: Any) -> Any:
    """A cell of pandas as Python has it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if type(value).__name__ in ("NaTType", "NAType") else value


def is_path(given: Any) -> bool:
    """Whether an argument names a file, a folder or a data set rather than being one."""
    return isinstance(given, str | Path)


def write_rows(rows: Iterable[Row], path: Path, where: str = "data") -> None:
    """Write rows as JSON lines, unless the file holds them already.

    Raises:
        PrefoptError: a value that JSON does not have, with its row and column.
    """
    text = "".join(f"{_line(row, number, where)}\n" for number, row in enumerate(rows, start=1))
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _line(row: Row, number: int, where: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_json, allow_nan=False)
    except (TypeError, ValueError):
        bad = next((name for name, value in row.items() if not _is_json(value)), "?")
        raise PrefoptError(
            f"{where}: row {number}: column {bad!r} holds a {type(row.get(bad)).__name__} that JSON does not have; remove it"
        ) from None


def _json(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, default=_json, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def rows_digest(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) of the content of rows, in their order.

    Raises:
        PrefoptError: a value that JSON does not have.
    """
    return digest(*(_line(row, number, "data") for number, row in enumerate(rows, start=1)))
