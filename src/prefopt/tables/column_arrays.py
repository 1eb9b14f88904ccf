"""Columns of a table as arrays of a few bytes per row: what select and weight know of all rows at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError
from prefopt.core.lazy import Lazy
from prefopt.tables.records import Row
from prefopt.tables.table_rows import TableRows

if TYPE_CHECKING:
    from datasets import Dataset

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.int64]


def narrow_rows(table: Dataset, names: Sequence[str]) -> TableRows:
    """The rows [N] with those of `names` that the table has, decoded when they are read."""
    return TableRows(
        table.select_columns([name for name in dict.fromkeys(names) if name in table.column_names])
    )


def flags(table: Dataset, name: str, test: Callable[[Row], bool]) -> Mask:
    """What `test` says of each row [N], of which it sees the column `name` if there is one."""
    if name not in table.column_names:
        return np.full(table.num_rows, test({}), dtype=np.bool_)
    return np.fromiter(map(test, narrow_rows(table, [name])), np.bool_, count=table.num_rows)


def floats(table: Dataset, name: str, where: str) -> Floats:
    """Column as floats [N], NaN where absent or null.

    Raises:
        PrefoptError: a value is no number.
    """
    if name not in table.column_names:
        return np.full(table.num_rows, math.nan)

    def number(row: Mapping[str, Any]) -> float:
        value = row[name]
        if value is not None and not isinstance(value, int | float):
            raise PrefoptError(
                f"{where}: column {name!r} holds {value!r} in row {row['id']!r}; give a column of numbers"
            )
        return math.nan if value is None else float(value)

    return np.fromiter(map(number, narrow_rows(table, ["id", name])), np.float64, count=table.num_rows)


def values_of(table: Dataset, name: str) -> Iterator[Any]:
    """The column's values, one by one."""
    return (row[name] for row in narrow_rows(table, [name]))


def text_order(table: Dataset, name: str) -> Places:
    """Rows [N] in rising order of a text column, equal ones in theirs; nulls come last."""
    import pyarrow.compute as pc

    # by bytes of UTF-8, which is the order of Python's text
    return np.asarray(pc.sort_indices(table.data.table.column(name))).astype(np.int64)


def text_numbers(table: Dataset, name: str) -> Places:
    """For each row [N] of a text column how many smaller texts there are: equal numbers are equal texts."""
    order = text_order(table, name)
    numbers = np.empty_like(order)
    numbers[order] = np.cumsum(_is_new(table, name, order)) - 1
    return numbers


def first_repeat(table: Dataset, name: str) -> int | None:
    """The first row whose text stands in a row before it, or is null."""
    order = text_order(table, name)
    later = order[~_is_new(table, name, order)]
    null = np.fromiter((value is None for value in values_of(table, name)), np.bool_, count=len(order))
    found = np.concatenate([later, np.flatnonzero(null)])
    return int(found.min()) if len(found) else None


def is_among(table: Dataset, other: Dataset, name: str, places: Places) -> Mask:
    """Whether the text of each row [N] stands in the same column of another table at one of `places`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = np.zeros(other.num_rows, dtype=np.bool_)
    wanted[places] = True
    texts = other.data.table.column(name).filter(pa.array(wanted))
    return np.asarray(pc.is_in(table.data.table.column(name), value_set=texts.combine_chunks()))


def _is_new(table: Dataset, name: str, order: Places) -> Mask:
    """Whether the text at each place of `order` differs from the one before it."""
    marks = np.fromiter(map(_mark, values_of(table, name)), np.uint64, count=len(order))[order]
    new = np.ones(len(order), dtype=np.bool_)
    column = table.data.table.column(name)
    for place in np.flatnonzero(marks[1:] == marks[:-1]).tolist():
        one, other = (column[int(order[k])].as_py() for k in (place, place + 1))
        new[place + 1] = one != other
    return new


def _mark(text: str | None) -> int:
    """64 bits that equal texts share."""
    return int.from_bytes(blake2b((text or "").encode(), digest_size=8).digest())


class Texts(Lazy[str]):
    """A text column at `places` [N], each value read when it is asked for."""

    def __init__(self, table: Dataset, name: str, places: Places) -> None:
        self._column, self._places = table.data.table.column(name), places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> str:
        """The item at `place`."""
        return str(self._column[int(self._places[place])].as_py())


class Coded:
    """Text of each row as a number of its value: `codes` [N] into `names`, by first appearance."""

    def __init__(self, values: Iterator[Any], count: int) -> None:
        numbers: dict[str, int] = {}
        found = (numbers.setdefault(str(value), len(numbers)) for value in values)
        self.codes = np.fromiter(found, np.int32, count=count)
        self.names = list(numbers)

    def texts(self, places: Places) -> NDArray[np.object_]:
        """The values at `places`; equal ones are one object."""
        return np.array([*self.names, ""], dtype=object)[self.codes[places]]
