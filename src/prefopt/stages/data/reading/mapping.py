"""`data.columns`: the user's names of columns for ours, also of values within objects and lists (`input.messages: prompt`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.stages.data.reading.recognise import known_names
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import Row

_NOTHING = object()


def check_mapping(columns: Mapping[str, str], head: Sequence[Row], source: str) -> None:
    """Raise `PrefoptError` where a name of ours is unknown or given twice, or no row of `head` has the user's."""
    known = {*COLUMNS, *known_names()}
    for ours in columns.values():
        if ours not in known:
            raise PrefoptError(f"data.columns: no column is named {ours!r}; {nearest(ours, known)}")
    if len(set(columns.values())) < len(columns):
        raise PrefoptError("data.columns: two of your columns are given the same name; give each its own")
    if not head:
        return
    found = {name for row in head for name in row}
    for name in sorted(columns):
        if all(_value(row, name) is _NOTHING for row in head):
            root, _, inner = name.partition(".")
            if inner and root in found:
                raise PrefoptError(
                    f"{source}: data.columns names {name!r}, but no row has {inner!r} in its column {root!r}"
                )
            raise PrefoptError(
                f"{source}: data.columns names {name!r}, but no row has it; {nearest(name, found)}"
            )


def mapped(row: Row, columns: Mapping[str, str], where: str) -> Row:
    """The row under our names. A column of which parts were taken, and whose name is given away, stays as `user_NAME`.

    Raises:
        PrefoptError: a name of ours that the row has already, under no mapping of its own.
    """
    if not columns:
        return row
    taken = {ours: value for name, ours in columns.items() if (value := _value(row, name)) is not _NOTHING}
    plain = {name for name in columns if name in row}
    roots = {name.split(".", 1)[0] for name in columns if name not in row}
    rest: Row = {}
    for name, value in row.items():
        if name in plain:
            continue
        if name in taken and name not in roots:
            raise PrefoptError(
                f"{where}: data.columns gives the name {name!r}, which the row has already; rename both"
            )
        rest[f"user_{name}" if name in taken else name] = value
    order = [columns[name] for name in row if name in plain]
    return {**{n: taken[n] for n in order}, **rest, **{n: v for n, v in taken.items() if n not in order}}


def _value(value: Any, path: str) -> Any:
    """What stands at a dotted path: keys of objects, places of lists; a key of a list of objects gives the list of values."""
    if isinstance(value, dict) and path in value:
        return value[path]
    key, dot, rest = path.partition(".")
    if isinstance(value, list) and not key.isdigit():
        found = [_value(item, path) for item in value]
        return (
            _NOTHING
            if not found or all(item is _NOTHING for item in found)
            else [None if item is _NOTHING else item for item in found]
        )
    if isinstance(value, list):
        inner = value[int(key)] if int(key) < len(value) else _NOTHING
    else:
        inner = value.get(key, _NOTHING) if isinstance(value, dict) else _NOTHING
    return _value(inner, rest) if dot and inner is not _NOTHING else inner
