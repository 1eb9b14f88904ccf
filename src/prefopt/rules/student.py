"""Student's t without scipy: what one value per seed says of the mean over seeds, and Holm's correction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

LEVEL = 0.05  # of the intervals, two-sided


def t_probability(t: float | int, freedom: int) -> float:
    """P(|T| >= |t|) for T of Student's distribution, exact finite sums (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The value that |T| exceeds with probability `level`, by bisection to 1e-12 of its size."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) > level:
        high *= 2.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) > level else (low, middle)
    return (low + high) / 2


def over_seeds(values: Sequence[float | int]) -> dict[str, Any]:
    """One value per seed: by_seed, mean, standard_error and the ends low and high of the 95% t interval; null of one seed alone.

    p: of the mean being 0 (a t test of values that are differences).

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("at least one seed is needed")
    found: dict[str, Any] = {"by_seed": list(values), "mean": statistics.fmean(values), "n": len(values)}
    if len(values) < 2:
        return found | dict.fromkeys(("standard_error", "low", "high", "p"))
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = t_quantile(len(values) - 1) * error
    t = found["mean"] / error if error else math.copysign(math.inf, found["mean"]) if found["mean"] else 0.0
    ends = {"low": found["mean"] - half, "high": found["mean"] + half}
    return found | {"standard_error": error, **ends, "p": t_probability(t, len(values) - 1)}


def holm(probabilities: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected so that any wrong verdict among them has the level of one (Holm 1979)."""
    order = sorted(range(len(probabilities)), key=lambda k: probabilities[k])
    corrected, least = [0.0] * len(probabilities), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * probabilities[place]))
        corrected[place] = least
    return corrected
