"""What a verifier says of one completion, or why it says nothing."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """What a verifier says of a completion. is_correct: None where it gives no verdict; score: None: 1 or 0 by the verdict.

    answer: what answers are told apart by; None: the text of the completion. details: what else it found, as plain data
    for the column `followed` (the verifier `constraints` gives its verdicts one by one).
    """

    is_correct: bool | None = None
    score: float | None = None
    answer: str | None = None
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Failure:
    """A row of which a verifier has no opinion because it failed. reason: counted; text: one line with file and line."""

    reason: str
    text: str


def as_score(found: Any, row_id: Any) -> Score:
    """True, False, None, a number or a `Score`, as a check of the user's returns it, as a `Score` with a score.

    Raises:
        TypeError: anything else.
        ValueError: a score that is not finite.
    """
    score = found
    if found is None or isinstance(found, bool):
        score = Score(is_correct=found)
    elif isinstance(found, numbers.Real):
        score = Score(score=float(found))
    elif type(found).__name__ in ("bool", "bool_") and hasattr(found, "item"):  # numpy's
        score = Score(is_correct=bool(found))
    if not isinstance(score, Score):
        raise TypeError(
            f"gave {found!r:.60} for row {row_id!r}; return True, False, a number, None or a Score"
        )
    if score.score is not None and not math.isfinite(score.score):
        raise ValueError(f"gave the score {score.score} for row {row_id!r}; scores are finite")
    if score.score is None and score.is_correct is not None:
        return Score(score.is_correct, float(score.is_correct), score.answer, score.details)
    return score
