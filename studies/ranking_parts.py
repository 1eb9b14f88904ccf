"""What the parts of the ranking study share: driving a tournament on a table of outcomes, truth of a tournament, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefopt.rules.standing import standing
from prefopt.rules.tournament import (
    FLIPPED,
    Final,
    Moves,
    Outcome,
    Pair,
    ipr,
    knockout,
    play,
    round_robin,
    wins_matrix,
)

RESAMPLES = 2000
STRATEGIES: dict[str, Callable[[Sequence[int]], Moves]] = {
    "ipr": ipr,
    "knockout": knockout,
    "round_robin, copeland": round_robin,
    "round_robin, bradley_terry": lambda order: round_robin(order, "bradley_terry"),
}


@dataclass(frozen=True)
class End:
    """What a strategy came to: comparisons with the last check, and whether it was among them as one of its own."""

    final: Final
    comparisons: int
    extra_check: bool


def drive(
    start: Callable[[Sequence[int]], Moves], order: Sequence[int], compare: Callable[[int, int], Outcome]
) -> End:
    """Play one tournament."""
    asked: list[Pair] = []

    def logged(a: int, b: int) -> Outcome:
        asked.append((a, b))
        return compare(a, b)

    final, count = play(start(order), logged)
    checked = bool(asked) and len(order) > 2 and count < math.comb(len(order), 2)
    return End(final, count, checked and asked[-1] == (final.best, final.worst))


def look_up(known: Mapping[Pair, Outcome]) -> Callable[[int, int], Outcome]:
    """A judge that reads a table with one entry per pair."""
    return lambda a, b: known[a, b] if (a, b) in known else FLIPPED[known.get((b, a), "missing")]


@dataclass(frozen=True)
class Truth:
    """Standing of all verdicts of a tournament: score [M] and who has the highest and the lowest one (equal ones together)."""

    score: NDArray[np.float64]
    best: frozenset[int]
    worst: frozenset[int]
    complete: bool
    condorcet: int | None


def truth_of(answers: int, known: Mapping[Pair, Outcome]) -> Truth:
    """Copeland over the known pairs: share of comparisons won, ties half."""
    wins = wins_matrix(answers, known)
    share = np.round(standing(wins).share, 9)
    complete = sum(outcome != "missing" for outcome in known.values()) == math.comb(answers, 2)
    beaten = [i for i in range(answers) if all(wins[i, j] == 1.0 for j in range(answers) if j != i)]
    return Truth(
        share,
        frozenset(np.flatnonzero(share == share.max()).tolist()),
        frozenset(np.flatnonzero(share == share.min()).tolist()),
        complete,
        beaten[0] if beaten else None,
    )


def interval(values: Sequence[Sequence[float]], seed: int = 0) -> dict[str, Any]:
    """Mean of per-prompt values [prompts][seeds] with a 95% percentile bootstrap over prompts; n counts prompts.

    A prompt may have no value (a strategy that made no pair there); prompts without any are left out.
    """
    means = np.array([np.mean(row) for row in values if len(row)])
    sizes = np.array([len(row) for row in values if len(row)], dtype=float)
    if not len(means):
        return {"mean": None, "low": None, "high": None, "n": 0}
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(means), (RESAMPLES, len(means)))
    resampled = (means * sizes)[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    mean = float((means * sizes).sum() / sizes.sum())
    return {"mean": mean, "low": float(low), "high": float(high), "n": len(means)}


def over_trials(by_seed: Sequence[float], trials: int) -> dict[str, Any]:
    """Mean over seeds; error: standard error over seeds (of a share of `trials` each where there is one seed)."""
    mean = float(np.mean(by_seed))
    if len(by_seed) > 1:
        error = float(np.std(by_seed, ddof=1) / math.sqrt(len(by_seed)))
    else:
        error = math.sqrt(max(mean * (1 - mean), 0.0) / trials)
    return {"mean": mean, "error": error, "by_seed": [float(x) for x in by_seed]}
