"""Final answers: found in a completion, compared, and sorted into classes of equal answers.

Strings and numbers are compared here; only what looks like other mathematics goes to math-verify, in a worker process
with time and memory limits (`prefopt.verify.mathcheck`), because a model may write anything, `9**9**9` included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from prefopt.verify.answers import (
    NO_UNIT,
    by_pattern,
    choice,
    last_number,
    marked_answer,
    normalize_answer,
    without_annotations,
)
from prefopt.verify.settings import DEFAULT, VerifyConfig

DIGITS = (
    6  # a decimal of so many significant digits or more equals a number that rounds to it at its last place
)
LONGEST_NUMBER = 200  # characters; longer ones are compared as text
LONGEST_FORMULA = 200

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


_BASED = re.compile(r"(-?)([0-9A-Za-z]+)_([0-9]{1,2})")


@dataclass(frozen=True)
class Number:
    """Value of an answer, and by how much a number may differ that this one is rounded from."""

    value: Fraction
    slack: Fraction = Fraction(0)


@lru_cache(maxsize=65536)
def as_number(answer: str) -> Number | None:
    """The number that an answer in normal form is; None when it is none. `1011_2` is one in base 2."""
    if len(answer) > LONGEST_NUMBER:
        return None
    based = _BASED.fullmatch(answer)
    if based:
        try:
            value = int(based[2], int(based[3]))
        except ValueError:  # no such base, or digits that it does not have
            return None
        return Number(Fraction(-value if based[1] else value))
    if not _NUMBER.fullmatch(answer):
        return None
    if "/" in answer:
        above, below = answer.split("/")
        return Number(Fraction(int(above), int(below))) if int(below) else None
    return Number(Fraction(answer), _slack(answer))


def _slack(decimal: str) -> Fraction:
    """Half of the sixth place of a decimal, counted from its first digit where it is below 1; 0 where it has fewer."""
    mantissa, _, exponent = decimal.partition("e")
    whole, _, part = mantissa.lstrip("-").partition(".")
    places = len(part) - int(exponent or 0)
    first = (
        len((whole + part).lstrip("0")) - places
    )  # digits before the point, or less than 0: zeros behind it
    place = DIGITS - min(first, 0)
    return Fraction(1, 2 * 10**place) if ("." in decimal or exponent) and places >= place else Fraction(0)


def _grouped(number: str, other: str) -> bool:
    """Whether a list of numbers, in any order, is what the number spells with marks of thousands."""
    parts = other.split(",")
    if len(parts) < 2 or not number.isdigit() or not all(part.strip().isdigit() for part in parts):
        return False
    return sorted(f"{int(number):,}".split(",")) == sorted(part.strip() for part in parts)


@lru_cache(maxsize=65536)
def _key(answer: str) -> str:
    """What two equal texts share: no blanks, no case."""
    return "".join(answer.split()).casefold()


def same_answer(first: str, second: str, config: VerifyConfig = DEFAULT) -> bool:
    """Whether two answers in normal form are equal: as text, as numbers, or symbolically. Symmetric.

    Numbers are exact, except that a decimal equals what rounds to it at the sixth place (of a tiny one: the sixth digit). A comma may mark thousands or part two numbers: "100200", as "100,200" is read, equals the list "200, 100". A symbolic
    comparison that hits its time or memory limit counts as different, as do power towers and the like, which are not even tried.
    """
    if first == second:
        return True
    if config.extract in ("text", "choice"):
        return config.extract == "choice" and _key(first) == _key(second)
    if _key(first) == _key(second):
        return True
    a, b = as_number(first), as_number(second)
    if a is not None and b is not None:
        return abs(a.value - b.value) <= max(a.slack, b.slack)
    if (a is None) != (b is None) and _grouped(*((first, second) if a is not None else (second, first))):
        return True
    if not (is_formula(first) and is_formula(second)):
        return False
    from prefopt.verify.mathcheck import equal

    return equal(*sorted((first, second)), timeout_s=config.timeout_s) is True


def is_formula(answer: str) -> bool:
    """Whether an answer is worth a symbolic comparison: short, mathematics rather than words, and not explosive."""
    if len(answer) > LONGEST_FORMULA or not _MATHEMATICS.search(answer) or _BASED.fullmatch(answer):
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
