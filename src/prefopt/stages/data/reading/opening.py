"""A stream of raw rows, opened: texts that hold messages restored, columns under our names, and the form of the file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.checks import Placed
from prefopt.stages.data.reading.formats import Format
from prefopt.stages.data.reading.mapping import check_mapping, mapped
from prefopt.stages.data.reading.recognise import detect
from prefopt.stages.data.reading.stored_text import restored, stored_columns
from prefopt.tables.records import Row

PEEK = 200  # rows that decide the form of a file


@dataclass(frozen=True)
class Opened:
    """rows: the raw rows, all of them, each with the words that say where it stood. prepare: a raw row as `form` reads it."""

    form: Format
    rows: Iterator[Placed]
    prepare: Callable[[Row, str], Row]


def opened(stream: Iterable[Placed], kind: str, columns: Mapping[str, str], source: str) -> Opened:
    """Look at the first rows and decide what the file holds.

    Raises:
        PrefoptError: no rows, a mapping that cannot work, no known form.
    """
    rows = iter(stream)
    head = list(itertools.islice(rows, PEEK))
    if not head:
        raise PrefoptError(f"{source}: holds no rows; give a file with rows")
    raw = [row for row, _ in head]
    outer = stored_columns(raw)
    whole = [restored(row, outer) for row in raw]
    check_mapping(columns, whole, source)
    renamed = [mapped(row, columns, where) for row, (_, where) in zip(whole, head, strict=True)]
    inner = stored_columns(renamed)

    def prepare(row: Row, where: str) -> Row:
        return restored(mapped(restored(row, outer), columns, where), inner)

    ready = [restored(row, inner) for row in renamed]
    form = detect(first_values(ready), kind, source, ready)
    return Opened(form, itertools.chain(head, rows), prepare)


def first_values(rows: Sequence[Row]) -> Row:
    """Column -> its first value that says something, over the rows."""
    sample: Row = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and (name not in sample or sample[name] in ("", [])):
                sample[name] = value
    return sample
