"""Final answers: found in a completion, compared, and sorted into classes of equal answers.

Strings and numbers are compared here; only what looks like other mathematics goes to math-verify, in a worker process
with time and memory limits (`prefopt.verify.mathcheck`), because a model may write anything, `9**9**9` included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from prefopt.core.settings import Config
from prefopt.verify.answers import (
    NO_UNIT,
    by_pattern,
    choice,
    last_number,
    marked_answer,
    normalize_answer,
    without_annotations,
)

DECIMALS = 6  # a decimal number equals another number that rounds to it at this place, as in math-verify
LONGEST_NUMBER = 200  # characters; longer ones are compared as text
LONGEST_FORMULA = 200


class VerifyConfig(Config):
    """How final answers are found and compared."""

    extract: Literal["auto", "number", "choice", "text"] = Field(
        "auto",
        description="final answer: auto (boxed, ####, 'answer is', 'A:'), number, choice (a letter), text (all of it)",
    )
    pattern: str | None = Field(
        None,
        description="regular expression for the answer instead: its last match, group 'answer' or 1 or all of it",
    )
    last_number: bool = Field(
        False, description="without a marked answer take the last number of the completion"
    )
    timeout_s: float = Field(
        5.0, gt=0, description="seconds that one symbolic comparison may take; then it counts as different"
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


DEFAULT = VerifyConfig()  # type: ignore[call-arg]

# ---- finding


def extract_answer(text: str, config: VerifyConfig = DEFAULT) -> str | None:
    r"""The final answer of a completion in normal form; None = unparsed.

    Rules in order, the last place of each: `\boxed{}`, `#### x`, "the answer is x" (or "answer: x"), a line "A: x".
    """
    if config.extract == "text" and config.pattern is None:
        return " ".join(text.split()) or None
    if config.pattern is not None:
        marked = by_pattern(text, config.pattern)
    else:
        text = without_annotations(text)
        marked = marked_answer(text)
    if config.extract == "choice":
        return choice(marked if marked is not None else text)
    if marked is None and config.last_number:
        marked = last_number(text)
    if marked is not None and config.extract == "number":
        marked = last_number(marked)
    return normalize_answer(marked) or None if marked is not None else None


def gold_answer(gold: str, config: VerifyConfig = DEFAULT) -> str | None:
    """The gold answer in normal form: a bare answer, or a solution that holds a marked one."""
    found = extract_answer(gold, config)
    if found is None and config.extract == "number":
        found = last_number(gold)
    return (
        found if config.extract in ("text", "choice") and found else normalize_answer(found or gold)
    ) or None


# ---- equality

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]{1,2})?|-?[0-9]+/[0-9]+")
_WORD = re.compile(r"(?<!\\)(?<![A-Za-z])[A-Za-z]{3,}")
# what would take forever or all memory, and tells nothing: towers of powers, huge exponents, huge factorials
_TOWER = re.compile(r"(?:\^|\*\*)[\s{(]*[^\s{}()^*+\-/]*[\s})]*(?:\^|\*\*)")
_HUGE = re.compile(r"(?:\^|\*\*)[\s{(\-]*[0-9]{4,}|[0-9]{4,}\s*!|!\s*!|\)\s*!|[0-9]{50,}")
_MATHEMATICS = re.compile(r"[0-9\\^+*/=<>(){}\[\]]")


@lru_cache(maxsize=65536)
def as_number(answer: str) -> tuple[Fraction, bool] | None:
    """Value of an answer in normal form, and whether it is a rounded one (a decimal); None when no number."""
    if len(answer) > LONGEST_NUMBER or not _NUMBER.fullmatch(answer):
        return None
    if "/" in answer:
        above, below = answer.split("/")
        return (Fraction(int(above), int(below)), False) if int(below) else None
    return Fraction(answer), "." in answer or "e" in answer


@lru_cache(maxsize=65536)
def _key(answer: str) -> str:
    """What two equal texts share: no blanks, no case."""
    return "".join(answer.split()).casefold()


def same_answer(first: str, second: str, config: VerifyConfig = DEFAULT) -> bool:
    """Whether two answers in normal form are equal: as text, as numbers, or symbolically. Symmetric.

    Numbers are exact, except that a decimal equals what rounds to it at the sixth place. A symbolic comparison that
    hits its time or memory limit counts as different, as do power towers and the like, which are not even tried.
    """
    if first == second:
        return True
    if config.extract in ("text", "choice"):
        return config.extract == "choice" and _key(first) == _key(second)
    if _key(first) == _key(second):
        return True
    a, b = as_number(first), as_number(second)
    if a is not None and b is not None:
        close = Fraction(1, 2 * 10**DECIMALS) if a[1] or b[1] else 0
        return abs(a[0] - b[0]) <= close
    if not (is_formula(first) and is_formula(second)):
        return False
    from prefopt.verify.mathcheck import equal

    return equal(*sorted((first, second)), timeout_s=config.timeout_s) is True


def is_formula(answer: str) -> bool:
    """Whether an answer is worth a symbolic comparison: short, mathematics rather than words, and not explosive."""
    if len(answer) > LONGEST_FORMULA or not _MATHEMATICS.search(answer):
        return False
    words = [word for word in _WORD.findall(answer) if not NO_UNIT.fullmatch(word)]
    return not words and not _TOWER.search(answer) and not _HUGE.search(answer)


def answer_classes(
    answers: Sequence[str | None], gold: str | None = None, config: VerifyConfig = DEFAULT
) -> tuple[list[int], int | None]:
    """Classes of equal answers [N], numbered by first appearance, -1 = unparsed; and the class that equals `gold`.

    Equality is closed under transitivity, the gold answer included. The gold class is None when there is no gold
    answer, and -2 when no sample has it.
    """
    distinct = list(
        dict.fromkeys([a for a in answers if a is not None] + ([gold] if gold is not None else []))
    )
    roots = list(range(len(distinct)))

    def root(place: int) -> int:
        while roots[place] != place:
            place = roots[place]
        return place

    for i in range(len(distinct)):
        for j in range(i):
            a, b = root(i), root(j)
            if a != b and same_answer(distinct[i], distinct[j], config):
                roots[max(a, b)] = min(a, b)
    number: dict[int, int] = {}
    place_of = {answer: place for place, answer in enumerate(distinct)}
    classes = [-1 if a is None else number.setdefault(root(place_of[a]), len(number)) for a in answers]
    if gold is None:
        return classes, None
    return classes, number.get(root(place_of[gold]), -2)
