"""The reference store: log-probs of the reference model, kept, shared, extended, and refused where they do not belong.

A store is a directory: `store.json` names what the log-probs depend on (`StoreKey`), `rows-KEY.parquet` holds one line per
pair or unpaired completion, found again by its content, not by its id. Stores of any size load on any machine that has the same
model, tokenizer, chat template, max_length and dtype.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from prefopt.errors import PrefoptError
from prefopt.records import (
    Row,
    digest,
    make_table,
    read_table,
    rows_of,
    write_groups,
    write_json,
    write_table,
)

FORMAT = 1
HEADER = "store.json"
CONTENT = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
VALUES = ("ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens", "truncated")
SINGLE_CONTENT = ("prompt", "completion", "tools", "chat_template_kwargs")
SINGLE_VALUES = ("ref_completion_logps", "completion_tokens", "truncated")
# known where they were wanted: LD-DPO's prefix sums; KTO's mismatched completion and a digest of its tokens
EXTRAS = ("ref_chosen_prefix_logps", "ref_rejected_prefix_logps", "ref_kl_logps", "kl_digest")
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
    return digest([row.get(name) or None for name in (SINGLE_CONTENT if is_single(row) else CONTENT)])


def is_single(row: Mapping[str, Any]) -> bool:
    """Whether a row is an unpaired completion, not a pair."""
    return row.get("completion") is not None and row.get("chosen") is None


def value_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a store keeps of a row, `EXTRAS` aside."""
    return SINGLE_VALUES if is_single(row) or row.get("ref_completion_logps") is not None else VALUES


@dataclass(frozen=True)
class ReferenceStore:
    """Reference log-probs of rows by content. Immutable: `extend` gives a new store.

    rows: row key -> id and `VALUES` or `SINGLE_VALUES`, and what is known of `EXTRAS` (log-probs: sums over answer
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
        stored = rows_of(read_table(path)) if path.exists() else []
        rows = {row["row"]: _known(row, ("id", *value_names(row), *EXTRAS)) for row in _checked(stored, path)}
        return ReferenceStore(found, rows)

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
        lines = [{"row": key, **row} for key, row in self.rows.items()]
        write_table(_line_table(lines), _rows_path(directory, self.key))

    def save_with(self, directory: Path, parts: Callable[[], Iterable[Sequence[Row]]]) -> None:
        """`extend` by rows of one kind that come in parts, and `save`.

        An empty store holds one part at a time in memory, unless rows have equal content; others hold all.

        Raises:
            PrefoptError: as `save`.
        """
        marks = array("Q", (int(row_key(row)[:16], 16) for part in parts() for row in part))
        if self.rows or len(np.unique(np.frombuffer(marks, dtype=np.uint64))) < len(marks):
            self.extend([row for part in parts() for row in part]).save(directory)
            return
        self._write_header(directory)
        tables = (_line_table(_lines(part)).data.table for part in parts() if part)
        first = next(tables)
        write_groups(chain((first,), tables), first.schema, _rows_path(directory, self.key))

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
        ids = {row["id"] for row in self.rows.values()}
        values = []
        for row in rows:
            found = self.get(row)
            if found is None and row["id"] in ids:
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
            added[key] = {**_fresh(row), **added.get(key, {}), **_known(row, EXTRAS)}
        return replace(self, rows=added)


def _fresh(row: Row) -> Row:
    """What a store keeps of a complete row, `EXTRAS` aside."""
    return {name: row[name] for name in ("id", *value_names(row))}


def _lines(rows: Sequence[Row]) -> list[Row]:
    """Complete rows as the file holds them."""
    return [{"row": row_key(row), **_fresh(row), **_known(row, EXTRAS)} for row in rows]


def _line_table(lines: Sequence[Row]) -> Dataset:
    has_singles = any("ref_completion_logps" in row for row in lines)
    has_pairs = not has_singles or any("ref_chosen_logps" in row for row in lines)
    names = ("id", *(VALUES if has_pairs else ()), *(SINGLE_VALUES if has_singles else ()))
    return make_table(lines, tuple(dict.fromkeys(names)))


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


def _known(row: Mapping[str, Any], names: Iterable[str]) -> Row:
    """Those of `names` that the row has a value for."""
    return {name: row[name] for name in names if row.get(name) is not None}


def _checked(rows: list[Row], path: Path) -> list[Row]:
    for row in rows:
        names = value_names(row)
        if not {"row", "id", *names} <= set(row):
            raise PrefoptError(f"{path}: columns are missing; make the store anew with `prefopt reference`")
        if not all(_finite(row[name]) for name in names if name.startswith("ref_")):
            raise PrefoptError(f"{path}: row {row['id']!r} has no finite log-prob; make the store anew")
    return rows


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
