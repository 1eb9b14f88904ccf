"""Columns of messages, lists and objects that were stored as text: JSON, or what Python prints of them (pandas' to_csv)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.forms.ranked import LISTS, MARK_LISTS, MODEL_LISTS, RANK_LISTS, SCORE_LISTS
from prefopt.stages.data.reading.strict_json import parse_json
from prefopt.tables.records import Row

# columns that are known to hold lists of texts or numbers; in any other, a text like "[1, 2]" may be an answer
_LISTS = frozenset((*LISTS, *SCORE_LISTS, *RANK_LISTS, *MODEL_LISTS, *MARK_LISTS, "history"))
_OBJECTS = frozenset({"input", "fields", "responses", "suggestions", "annotations", "data", "question"})
MAX_CHARS = 10**7  # of one text that is looked at
# numpy prints an array of objects without commas; a line break can stand nowhere else, texts have theirs as \n
_BETWEEN_OBJECTS = re.compile(r"\}\s*\n\s*\{")
_ARRAY = re.compile(r"array\((?P<list>.*), dtype=object\)", re.DOTALL)


def decoded(text: Any) -> Any:
    """The list or object that a text writes in JSON or Python's own form; None where it writes neither."""
    if (
        not isinstance(text, str)
        or not text.lstrip().startswith(("[", "{", "array("))
        or len(text) > MAX_CHARS
    ):
        return None
    try:
        return parse_json(text, "text")
    except PrefoptError:
        pass
    whole = _ARRAY.fullmatch(text.strip())
    plain = whole["list"] if whole else text.strip()
    for candidate in (plain, _BETWEEN_OBJECTS.sub("}, {", plain)):
        try:
            value = ast.literal_eval(candidate)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        return value if _is_plain(value) else None
    return None


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold the value: no tuples, sets, bytes or numbers that are none."""
    try:
        return isinstance(value, dict | list) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool({"role", "from"} & set(value))
        and bool({"content", "value", "tool_calls"} & set(value))
    )


def _is_messages(value: Any) -> bool:
    return _is_message(value) or (isinstance(value, list) and bool(value) and all(map(_is_message, value)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(v, dict) for v in value))


def stored_columns(head: Sequence[Row]) -> tuple[str, ...]:
    """Columns whose every value in the first rows is a text that holds messages, or a list where one is wanted."""
    names = dict.fromkeys(name for row in head for name in row)
    return tuple(
        name
        for name in names
        if _is_stored(name, [row[name] for row in head if row.get(name) not in (None, "")])
    )


def _is_stored(name: str, values: list[Any]) -> bool:
    if not values or not all(isinstance(value, str) for value in values):
        return False
    fits: Callable[[Any], bool] = _is_messages
    if name in _LISTS:
        fits = _is_list
    elif name in _OBJECTS:
        fits = _is_object
    return all(fits(decoded(value)) for value in values)


def restored(row: Row, names: Sequence[str]) -> Row:
    """The row with the texts in `names` as what they hold; one that holds nothing stays a text."""
    found = {name: value for name in names if (value := decoded(row.get(name))) is not None}
    return {**row, **found} if found else row
