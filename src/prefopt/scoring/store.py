"""The reference store: log-probs of the reference model, kept, shared, extended, and refused where they do not belong.

A store is a directory: `store.json` names what the log-probs depend on (`StoreKey`), `rows-KEY.parquet` holds one line per
pair or unpaired completion, found again by its content, not by its id. Stores of any size load on any machine that has the same
model, tokenizer, chat template, max_length and dtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.scoring.stored_rows import (
    EXTRAS,
    SINGLE_VALUES,
    VALUES,
    StoredRows,
    known,
    make_lines,
    write_lines,
)
from prefopt.tables.records import Row, digest, write_json
from prefopt.tables.table_rows import TableRows, read_table

FORMAT = 1
HEADER = "store.json"
CONTENT = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
COUNT = "count_in_answer"
SINGLE_CONTENT = ("prompt", "completion", "tools", "chat_template_kwargs")
TITLES = {"model": "model weights", "tokenizer": "tokenizer", "chat_template": "chat template"}


@dataclass(frozen=True)
class StoreKey:
    """What reference log-probs depend on besides the row: digests (SHA-256 hex), tokens, and the dtype's name."""

    model: str
    tokenizer: str
    chat_template: str
    max_length: int
    dtype: str

    @property
    def digest(self) -> str:
        """One name for all of it (SHA-256 hex)."""
        return digest(asdict(self))

    def check(self, other: StoreKey, where: str) -> None:
        """Raise unless `other`, read from `where`, is the same.

        Raises:
            PrefoptError: naming every key that differs.
        """
        names = [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]
        if not names:
            return
        told = [
            f"{TITLES.get(n, n)} ({_short(getattr(other, n))}, now {_short(getattr(self, n))})" for n in names
        ]
        raise PrefoptError(
            f"{where}: made with another {' and another '.join(told)}; use the store's own settings, or name a new "
            "directory"
        )


def row_key(row: Mapping[str, Any]) -> str:
    """Content hash (SHA-256 hex) of what the reference model sees of a row; id and other columns do not count."""
    parts = [row.get(name) or None for name in (SINGLE_CONTENT if is_single(row) else CONTENT)]
    return digest([*parts, row[COUNT]] if row.get(COUNT) else parts)


def is_single(row: Mapping[str, Any]) -> bool:
    """Whether a row is an unpaired completion, not a pair."""
    return row.get("completion") is not None and row.get("chosen") is None


def value_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a store keeps of a row, `EXTRAS` aside."""
    return SINGLE_VALUES if is_single(row) or row.get("ref_completion_logps") is not None else VALUES


@dataclass(frozen=True)
class ReferenceStore:
    """Reference log-probs of rows by content. Immutable: `extend` gives a new store.

    rows (a dict, or `StoredRows` on a file): row key -> id and `VALUES` or `SINGLE_VALUES`, and what is known of `EXTRAS` (log-probs: sums over answer
    tokens, nats).
    """

    key: StoreKey
    rows: Mapping[str, Row]

    @staticmethod
    def load(directory: Path, key: StoreKey | None = None) -> ReferenceStore:
        """Read a store; with `key`, only if it is the store of that model and those settings.

        Raises:
            PrefoptError: no store there, damaged, or one of another key (which part differs is said).
        """
        found = _read_header(directory)
        if key is not None:
            key.check(found, f"reference store {directory}")
        path = _rows_path(directory, found)
        # the header is written first: without rows it is a store that a kill caught empty
        return ReferenceStore(found, _read_rows(path) if path.exists() else {})

    @staticmethod
    def open(directory: Path, key: StoreKey) -> ReferenceStore:
        """The store at `directory`, or an empty one where there is none yet.

        Raises:
            PrefoptError: as `load`, or the directory holds other things.
        """
        if (directory / HEADER).exists():
            return ReferenceStore.load(directory, key)
        if directory.exists() and (not directory.is_dir() or any(directory.glob("*.parquet"))):
            raise PrefoptError(
                f"{directory}: no reference store ({HEADER} is missing); name another directory"
            )
        return ReferenceStore(key, {})

    def save(self, directory: Path) -> None:
        """Write the store; a kill leaves the former rows or these, never half of them.

        Raises:
            PrefoptError: another key's store is there, or it cannot be written.
        """
        self._write_header(directory)
        write_lines(make_lines(self._lines()), _rows_path(directory, self.key))

    def save_with(self, directory: Path, parts: Callable[[], Iterable[Sequence[Row]]]) -> None:
        """`extend` by rows that come in parts, and `save`, with one part at a time in memory.

        Raises:
            PrefoptError: as `save`.
        """
        self._write_header(directory)
        lines = make_lines(_line(row) for part in parts() for row in part)
        fresh = StoredRows(lines)
        if self.rows or fresh.may_repeat:
            lines = make_lines(self._extended(fresh))
        write_lines(lines, _rows_path(directory, self.key))

    def _lines(self) -> Iterator[Row]:
        if isinstance(self.rows, StoredRows):
            return self.rows.lines()
        return ({"row": key, **row} for key, row in self.rows.items())

    def _extended(self, fresh: StoredRows) -> Iterator[Row]:
        """The lines of `extend`: the store's own, then the first one of each other key, with the extras of them all."""
        for line in self._lines():
            yield line | (fresh.extras(line["row"]) if fresh.has_extras else {})
        for place, line in enumerate(fresh.lines()):
            key = line["row"]
            if key not in self.rows and (not fresh.may_repeat or fresh.places(key)[0] == place):
                yield line | (fresh.extras(key) if fresh.may_repeat else {})

    def _write_header(self, directory: Path) -> None:
        if (directory / HEADER).exists():
            self.key.check(_read_header(directory), f"reference store {directory}")
        else:
            write_json(directory / HEADER, {"format": FORMAT, **asdict(self.key)})

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that are not in the store."""
        return [row for row in rows if row_key(row) not in self.rows]

    def get(self, row: Row) -> Row | None:
        """The `VALUES` (or `SINGLE_VALUES`) and known `EXTRAS` of a row by its content, None if it is not there."""
        found = self.rows.get(row_key(row))
        return None if found is None else {name: value for name, value in found.items() if name != "id"}

    def lookup(self, rows: Sequence[Row]) -> list[Row]:
        """What `get` gives of every row, in order.

        Raises:
            PrefoptError: a row is not in the store, or the store knows its id with other content.
        """
        values = []
        for row in rows:
            found = self.get(row)
            if found is None and any(other["id"] == row["id"] for other in self.rows.values()):
                raise PrefoptError(
                    f"row {row['id']!r}: prompt or answers differ from the row in the reference store; run "
                    "`prefopt reference` on these rows"
                )
            if found is None:
                raise PrefoptError(
                    f"row {row['id']!r}: not in the reference store; extend it with `prefopt reference`"
                )
            values.append(found)
        return values

    def extend(self, rows: Sequence[Row]) -> ReferenceStore:
        """A store with `rows` (complete rows with their values) added; what it knows already stays as it is.

        Only `EXTRAS` are overwritten: a row's mismatched completion may be another one in another data set.
        """
        added = dict(self.rows)
        for row in rows:
            key = row_key(row)
            added[key] = {**_fresh(row), **added.get(key, {}), **known(row, EXTRAS)}
        return replace(self, rows=added)


def _fresh(row: Row) -> Row:
    """What a store keeps of a complete row, `EXTRAS` aside."""
    return {name: row[name] for name in ("id", *value_names(row))}


def _line(row: Row) -> Row:
    """A complete row as the file holds it."""
    return {"row": row_key(row), **_fresh(row), **known(row, EXTRAS)}


def _read_header(directory: Path) -> StoreKey:
    path = directory / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise PrefoptError(
                f"{path}: store format {header['format']!r}, this version reads {FORMAT}; make it anew"
            )
        return StoreKey(**{f.name: header[f.name] for f in fields(StoreKey)})
    except FileNotFoundError:
        raise PrefoptError(f"{directory}: no reference store; make it with `prefopt reference`") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise PrefoptError(f"{path}: damaged; make the store anew with `prefopt reference`") from None


def _rows_path(directory: Path, key: StoreKey) -> Path:
    """Rows carry their key in the name, so that a header never meets the rows of another store."""
    return directory / f"rows-{key.digest[:16]}.parquet"


def _read_rows(path: Path) -> StoredRows:
    """The rows of a store's file, every one of them looked at."""
    table = read_table(path)
    if not {"row", "id"} <= set(table.column_names):
        raise PrefoptError(_lacking(path))
    for row in TableRows(table):
        names = value_names(row)
        if not set(names) <= set(row):
            raise PrefoptError(_lacking(path))
        if not all(_finite(row[name]) for name in names if name.startswith("ref_")):
            raise PrefoptError(f"{path}: row {row['id']!r} has no finite log-prob; make the store anew")
    try:
        return StoredRows(table.data.table)
    except (TypeError, ValueError):
        raise PrefoptError(f"{path}: damaged keys; make the store anew with `prefopt reference`") from None


def _lacking(path: Path) -> str:
    return f"{path}: columns are missing; make the store anew with `prefopt reference`"


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
