"""Strict JSON: what many readers let pass, and what would change or break the data later, is an error here."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.records import Row

MAX_DEPTH = (
    64  # nested lists and objects; far beyond any data set, far below what Arrow and the stack can hold
)


class _BadValue(ValueError):
    """A value that JSON readers often let pass, and that would change or break the data later."""


def _refuse_constant(name: str) -> None:
    raise _BadValue(f"holds {name}, which is not JSON; write a number or null")


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadValue(f"key {twice!r} stands twice in one object; remove one")
    return row


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; flatten it"


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no NaN or Infinity, no key twice, no half surrogate pair, nesting up to `MAX_DEPTH`.

    Raises:
        PrefoptError: not such JSON; `where` stands in front.
    """
    value = _guarded(lambda: _DECODER.decode(text), where)
    _guarded(lambda: _check_values(value), where)
    return value


def parse_array(text: str, name: str) -> Iterator[tuple[Any, str]]:
    """The elements of a JSON array one by one, each with `NAME: row NUMBER`, so that errors name the row.

    Raises:
        PrefoptError: as `parse_json`, when the element is reached.
    """
    end = text.index("[") + 1
    for number in itertools.count(1):
        where = f"{name}: row {number}"
        end = _next(text, end)
        if number == 1 and text[end : end + 1] == "]":
            return
        value, end = _guarded(lambda at=end: _DECODER.raw_decode(text, at), where)  # type: ignore[misc]
        _guarded(lambda v=value: _check_values(v), where)  # type: ignore[misc]
        yield value, where
        end = _next(text, end)
        if text[end : end + 1] == "]":
            if text[end + 1 :].strip():
                raise PrefoptError(f"{name}: text after the end of the array; remove it")
            return
        if text[end : end + 1] != ",":
            line = text.count("\n", 0, end) + 1
            raise PrefoptError(
                f"{where}: not valid JSON (',' or ']' expected after it, line {line}); mend the array"
            )
        end += 1


def _next(text: str, start: int) -> int:
    """Index of the first character at or after `start` that is no JSON whitespace."""
    while text[start : start + 1] in (" ", "\n", "\r", "\t"):
        start += 1
    return start


def _guarded(work: Callable[[], Any], where: str) -> Any:
    try:
        return work()
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise PrefoptError(f"{where}: not valid JSON ({error.msg} at {place}); mend or remove it") from None
    except RecursionError:
        raise PrefoptError(f"{where}: {_TOO_DEEP}") from None
    except ValueError as error:  # ours, or a number of more digits than Python reads
        raise PrefoptError(f"{where}: {str(error)[:200]}") from None


def _check_values(value: Any) -> None:
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and not _is_encodable(item):
                raise _BadValue(
                    "holds half of a surrogate pair (a broken \\ud... escape); mend or remove the text"
                )
        elif isinstance(item, dict | list):
            if depth >= MAX_DEPTH:
                raise _BadValue(_TOO_DEEP)
            inner: Iterable[Any] = item if isinstance(item, list) else itertools.chain(item, item.values())
            stack.extend((i, depth + 1) for i in inner)
        elif isinstance(item, float) and not math.isfinite(item):
            raise _BadValue("holds a number too large for a float; write a smaller one")


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
