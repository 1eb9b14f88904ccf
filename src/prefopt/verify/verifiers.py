"""Verifiers by name: functions of one completion that say whether it is right, or how good it is.

    @prefopt.register_verifier("short")
    def short(prompt, completion, row, *, words=20):
        return len(completion.split()) <= words

`row` is the completion's row with all columns of the data, the gold answer among them. True and False are verdicts, a
number is a score without a verdict, None is no opinion; a `Score` says both. A new verifier of ours is one function and
one row of `VERIFIERS`; `answer`, the comparison of final answers, is the package's own and stands beside them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, check_options, digests, keywords_of, origin_of, told

Function = TypeVar("Function", bound=Callable[..., Any])
ANSWER = "answer"  # final answers against gold answers (`prefopt.verify`)


@dataclass(frozen=True)
class Score:
    """What a verifier says of a completion. is_correct: None where it gives no verdict; score: None: 1 or 0 by the verdict.

    answer: what answers are told apart by; None: the text of the completion.
    """

    is_correct: bool | None = None
    score: float | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Verifier:
    """`check(prompt, completion, row, **options)` gives True, False, None, a number or a `Score`."""

    check: Callable[..., Any]
    about: str = ""


VERIFIERS: dict[str, Verifier] = {}


class Chosen(Protocol):
    """The settings that say which verifier (`VerifyConfig` has them)."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options."""


def register_verifier(name: str, about: str = "") -> Callable[[Function], Function]:
    """Decorator: the function is a verifier under `name`; its keyword-only parameters are its options.

    Raises:
        PrefoptError: the name is taken, or the function takes other arguments.
    """

    def register(check: Function) -> Function:
        if not callable(check):
            raise PrefoptError(f"{origin_of(check)}: verifier {name!r}: decorate a function")
        add_part(
            KIND, name, check, Verifier(check, about or (check.__doc__ or "").partition("\n")[0]), VERIFIERS
        )
        return check

    if name == ANSWER:
        raise PrefoptError(f"verifier {name!r} is built in; choose another name")
    return register


KIND = "verifier"


def check_verifier(config: Chosen) -> None:
    """Raise ValueError unless the verifier is known and has the options."""
    if config.kind != ANSWER and config.kind not in VERIFIERS:
        raise ValueError(
            f"unknown verifier {config.kind!r}, {nearest(config.kind, (ANSWER, *VERIFIERS))} (plugins add others)"
        )
    known = keywords_of(VERIFIERS[config.kind].check) if config.kind in VERIFIERS else {}
    try:
        check_options(f"verifier {config.kind!r}", config.options, known)
    except PrefoptError as error:
        raise ValueError(str(error)) from None


def verifier_digests(config: Chosen) -> list[str]:
    """Digest of the plug-in that the settings name; for the key of a stage."""
    return digests(KIND, [config.kind])


def score_completion(row: Mapping[str, Any], config: Chosen) -> Score:
    """What the verifier `config.kind` (not `answer`) says of a completion's row.

    Raises:
        PrefoptError: the verifier fails, or gives something else than it may; names its file and line.
    """
    verifier = VERIFIERS[config.kind]
    with told(KIND, config.kind):
        found = verifier.check(row["prompt"], row["completion"] or "", row, **config.options)
        return _score(found, row)


def _score(found: Any, row: Mapping[str, Any]) -> Score:
    score = found
    if found is None or isinstance(found, bool):
        score = Score(is_correct=found)
    elif isinstance(found, numbers.Real):
        score = Score(score=float(found))
    elif type(found).__name__ in ("bool", "bool_") and hasattr(found, "item"):  # numpy's
        score = Score(is_correct=bool(found))
    if not isinstance(score, Score):
        raise TypeError(
            f"gave {found!r} for row {row.get('id')!r}; return True, False, a number, None or a Score"
        )
    if score.score is not None and not math.isfinite(score.score):
        raise ValueError(f"gave the score {score.score} for row {row.get('id')!r}; scores are finite")
    if score.score is None and score.is_correct is not None:
        return Score(score.is_correct, float(score.is_correct), score.answer)
    return score
