"""The rows of a reference store as its file holds them: read, found by key and written without all of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prefopt.tables.columns import COLUMNS, arrow_type
from prefopt.tables.records import GROUP_ROWS, Row, as_dataset, write_groups
from prefopt.tables.table_rows import TableRows, mapped

VALUES = ("ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens", "truncated")
SINGLE_VALUES = ("ref_completion_logps", "completion_tokens", "truncated")
# known where they were wanted: LD-DPO's prefix sums; KTO's mismatched completion and a digest of its tokens
EXTRAS = ("ref_chosen_prefix_logps", "ref_rejected_prefix_logps", "ref_kl_logps", "kl_digest")
CHUNK_ROWS = 256  # lines that are Python objects at a time

KNOWN = tuple(dict.fromkeys(("id", *VALUES, *SINGLE_VALUES, *EXTRAS)))


def known(row: Mapping[str, Any], names: Iterable[str]) -> Row:
    """Those of `names` that the row has a value for."""
    return {name: row[name] for name in names if row.get(name) is not None}


class StoredRows(Mapping[str, Row]):
    """Row key -> id, values and extras of a row, decoded when it is asked for; 12 bytes per line in memory.

    lines: a table of `make_lines` (a key may stand in several lines, the last of which counts), or a part of its columns.

    Raises:
        ValueError: a key is no SHA-256 in hex.
    """

    def __init__(self, lines: pa.Table) -> None:
        self._keys = lines.column("row")
        self._lines = TableRows(as_dataset(lines))
        marks = np.fromiter(map(_mark, self), dtype=np.uint64, count=lines.num_rows)
        self._order = np.argsort(marks, kind="stable").astype(np.uint32)
        marks.sort()
        self._marks = marks
        self.may_repeat = bool((self._marks[1:] == self._marks[:-1]).any())
        self.has_extras = any(has_values(lines, name) for name in EXTRAS)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK_ROWS):
            yield from self._keys.slice(start, CHUNK_ROWS).to_pylist()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and len(self.places(key)) > 0

    def __getitem__(self, key: str) -> Row:
        places = self.places(key)
        if not places:
            raise KeyError(key)
        return _row(self._lines[places[-1]])

    def places(self, key: str) -> list[int]:
        """The lines in which the key stands, rising."""
        mark = np.uint64(_mark(key))
        start, stop = np.searchsorted(self._marks, mark, "left"), np.searchsorted(self._marks, mark, "right")
        return [place for place in self._order[start:stop].tolist() if self._keys[place].as_py() == key]

    def extras(self, key: str) -> Row:
        """`EXTRAS` of all lines of the key; of a name that several know, the last."""
        found: Row = {}
        for place in self.places(key):
            found |= known(self._lines[place], EXTRAS)
        return found

    def lines(self) -> Iterator[Row]:
        """Every line as a row with its key, in order."""
        return ({"row": line["row"], **_row(line)} for line in self._lines)


def _mark(key: str) -> int:
    return int(key[:16], 16)


def _row(line: Row) -> Row:
    return known(line, KNOWN)


def has_values(lines: pa.Table, name: str) -> bool:
    """Whether the table has the column, and in some line a value."""
    return name in lines.column_names and lines.column(name).null_count < lines.num_rows


def make_lines(rows: Iterable[Row]) -> pa.Table:
    """Rows with their key in `row` as a table on a mapped file, with every column that a store may have."""
    types = {name: arrow_type(COLUMNS[name].kind, True) for name in KNOWN if name in COLUMNS}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in ("row", *KNOWN)])
    walk = iter(rows)

    def write(add: Callable[[pa.RecordBatch], None]) -> None:
        while chunk := list(islice(walk, CHUNK_ROWS)):
            add(pa.RecordBatch.from_pylist(chunk, schema=schema))

    return mapped(schema, write)


def write_lines(lines: pa.Table, path: Path) -> None:
    """Write a table of `make_lines` as a store's file, with the columns that it needs, in the order of `make_table`."""
    has_singles = has_values(lines, "ref_completion_logps")
    has_pairs = not has_singles or has_values(lines, "ref_chosen_logps")
    first = ("id", *(VALUES if has_pairs else ()), *(SINGLE_VALUES if has_singles else ()))
    extras = [name for name in EXTRAS if has_values(lines, name)]
    later = [name for name in COLUMNS if name in extras] + ["row"] + [n for n in extras if n not in COLUMNS]
    table = lines.select([*dict.fromkeys(first), *later])
    groups = (table.slice(start, GROUP_ROWS) for start in range(0, max(table.num_rows, 1), GROUP_ROWS))
    write_groups(groups, table.schema, path)
