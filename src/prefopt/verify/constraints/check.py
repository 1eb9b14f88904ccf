"""Whether an answer keeps the constraints of its prompt, strictly and loosely (2311.07911, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import check_options, keywords_of
from prefopt.verify.constraints.kinds import KINDS, SPOKEN, Constraint
from prefopt.verify.constraints.texts import MISSING
from prefopt.verify.score import Score

_COUNTS = ("num_", "frequency", "let_frequency", "capital_frequency", "nth_paragraph")


def constraints_of(row: Mapping[str, Any]) -> list[Constraint]:
    """The constraints of a prompt: its column `constraints`, or IFEval's two columns; [] where it has none.

    Raises:
        PrefoptError: an unknown kind, or one with arguments that it does not have; names it and the nearest.
    """
    given = row.get("constraints")
    if given is None:
        ids, kwargs = row.get("instruction_id_list"), row.get("kwargs")
        if ids is None:
            return []
        kwargs = [{}] * len(ids) if kwargs is None else kwargs
        if not isinstance(ids, list) or not isinstance(kwargs, list) or len(ids) != len(kwargs):
            raise PrefoptError("instruction_id_list and kwargs: give two lists of equal length")
        given = [{"id": name, "kwargs": own} for name, own in zip(ids, kwargs, strict=True)]
    if not isinstance(given, list):
        raise PrefoptError('constraints: give a list of {"id": KIND, "kwargs": {...}}')
    return [_checked(one) for one in given]


def _checked(one: Any) -> Constraint:
    if not isinstance(one, dict) or not isinstance(one.get("id"), str):
        raise PrefoptError(f'constraint {one!r:.60}: give {{"id": KIND, "kwargs": {{...}}}}')
    name, kwargs = one["id"], one.get("kwargs") or {}
    if name not in KINDS:
        raise PrefoptError(f"unknown constraint {name!r}, {nearest(name, KINDS)}")
    if not isinstance(kwargs, dict):
        raise PrefoptError(f"constraint {name!r}: kwargs {kwargs!r:.60}; give an object")
    known = keywords_of(KINDS[name])
    # files made by other tools name every argument of every kind, null where a kind has none
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    check_options(f"constraint {name!r}", kwargs, known)
    return {"id": name, "kwargs": {key: _value(name, key, value) for key, value in kwargs.items()}}


def _value(name: str, key: str, value: Any) -> Any:
    """An argument of the right type: whole numbers may be written 3.0, lists hold texts, all else is text."""
    if key.startswith(_COUNTS):
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise PrefoptError(f"constraint {name!r}: {key} is {value!r:.40}; give a whole number")
        return int(value)
    if key in ("keywords", "forbidden_words"):
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise PrefoptError(f"constraint {name!r}: {key} is {value!r:.40}; give a list of texts")
        return value
    if not isinstance(value, str):
        raise PrefoptError(f"constraint {name!r}: {key} is {value!r:.40}; give a text")
    if key.endswith("relation") and value not in ("at least", "less than"):
        raise PrefoptError(f"constraint {name!r}: {key} is {value!r:.40}; give 'at least' or 'less than'")
    return value


def loose_forms(text: str) -> list[str]:
    """The eight forms of an answer of which one has to pass: without asterisks, first line, last line, in all combinations."""
    lines = text.split("\n")
    cut = (lines, lines[1:], lines[:-1], lines[1:-1])
    whole = ["\n".join(part).strip() for part in cut]
    whole[0] = text
    return [*whole, *(form.replace("*", "") for form in whole)]


def follows(text: str, constraint: Constraint, *, loose: bool = False) -> bool:
    """Whether an answer keeps one constraint. An empty answer keeps none."""
    check = KINDS[constraint["id"]]
    forms = loose_forms(text) if loose else [text]
    return any(check(form, **constraint["kwargs"]) for form in forms if form.strip())


def verdicts(text: str, asked: Sequence[Constraint]) -> dict[str, list[Any]]:
    """`{"ids", "strict", "loose"}`, one entry per constraint: what the column `followed` holds."""
    strict = [follows(text, one) for one in asked]
    loose = [passed or follows(text, one, loose=True) for passed, one in zip(strict, asked, strict=True)]
    return {"ids": [one["id"] for one in asked], "strict": strict, "loose": loose}


def constraints(
    prompt: Any, completion: str, row: Mapping[str, Any], *, mode: Literal["strict", "loose"] = "strict"
) -> Score:
    """The constraints of the row (IFEval's 25 kinds): right where all are kept; the score is the share that is kept"""
    asked = constraints_of(row)
    if not asked:
        return Score()
    found = verdicts(completion, asked)
    kept = found[mode]
    return Score(all(kept), sum(kept) / len(kept), None, found)


def check_packages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise `PrefoptError` where a row asks for a language and langdetect is not installed, before anything is computed."""
    from importlib.util import find_spec

    if find_spec("langdetect") is None and any(
        one["id"] in SPOKEN for row in rows for one in constraints_of(row)
    ):
        raise PrefoptError(MISSING)
