"""What a pairwise judge is asked and what it says: the protocol of all judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from prefopt.tables.records import Row

# missing: the judge has no verdict on that pair (recorded files have gaps); unparsed: it answered, but no verdict was
# found in the answer. Neither is a tie.
Winner = Literal["first", "second", "tie", "missing", "unparsed"]
TIE_BAND = 0.05


@dataclass(frozen=True)
class Comparison:
    """One judge call. first, second: rows of completions (`id`, `completion`, `gold`, `score`, ... as they are)."""

    prompt_id: str
    prompt: str | list[dict[str, Any]]
    first: Row
    second: Row
    reference: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the judge said. probability: P(first is better) of this call, None where the judge gives none.

    calls: how often the judge was asked for it (2 where an answer without a verdict was asked for again by the judge
    itself); tokens and latency are of all of them. latency_s (seconds) differs between equal runs and never enters a table of results.
    """

    winner: Winner
    probability: float | None = None
    text: str = ""
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    calls: int = 1


class PairwiseJudge(Protocol):
    """What compares.

    both_orders: each pair is to be asked in both orders; False where the order is known not to matter.
    averages: the verdict on a pair is by the mean probability of its two calls and the tie band (a model read at the
    verdict token); else both calls must name the same answer.
    cacheable: verdicts may be kept by content and used again.
    A judge may also have `keeps_answers` (True): it stores each answer as it arrives and itself asks again where an
    answer has no verdict, so that it is best given many calls at once.
    """

    name: str
    both_orders: bool
    averages: bool
    cacheable: bool

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, in order. Global random state stays as it was."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the verdicts depend on (JSON, without secrets): for the manifest and the key of the cache."""
        ...


def winner_of(probability: float, tie_band: float = TIE_BAND) -> Winner:
    """The winner at P(first is better): a tie where |P - 0.5| < tie_band, and at 0.5 itself."""
    distance = probability - 0.5
    if distance == 0 or abs(distance) < tie_band:
        return "tie"
    return "first" if distance > 0 else "second"
