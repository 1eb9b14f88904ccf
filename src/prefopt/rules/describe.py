"""Figures for reports: correlations, histograms, deciles. Undefined ones are None, all others plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefopt.rules.order import Picked, score_order

TAIL = 0.005  # share of values on either side that a histogram puts into its end bins
DECILES = 10


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the finite values, exactly rounded (so independent of their order); None when there is none."""
    finite = values[np.isfinite(values)]
    return math.fsum(finite) / len(finite) if len(finite) else None


def pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Pearson correlation of the rows [N] where both are finite; None for fewer than 3 or a constant side."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.all(x == x[0]) or np.all(y == y[0]):
        return None
    x, y = _unit(x), _unit(y)
    value = math.fsum(x * y)
    return max(-1.0, min(1.0, value)) if math.isfinite(value) else None


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x / np.max(np.abs(x))  # keeps squares of huge or tiny values in range
    x = x - math.fsum(x) / len(x)
    norm = math.sqrt(math.fsum(x * x))
    return x / norm if norm > 0 else x * math.nan


def ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks [N] from 1, ties share the mean of their ranks."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse].astype(np.float64)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Rank correlation of the rows [N] where both are finite; None for fewer than 3 or a constant side."""
    both = np.isfinite(x) & np.isfinite(y)
    return pearson(ranks(x[both]), ranks(y[both])) if np.any(both) else None


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[str, Any]:
    """Both correlations and the number of rows they rest on."""
    rows = int(np.sum(np.isfinite(x) & np.isfinite(y)))
    return {"pearson": pearson(x, y), "spearman": spearman(x, y), "rows": rows}


def histogram(
    values: NDArray[np.float64],
    kept: NDArray[np.bool_],
    *,
    bins: int = 40,
    include: Sequence[float] = (),
) -> dict[str, Any]:
    """Counts of all finite values [N] and of the kept ones over the same edges.

    The range is the middle 99% and the values of `include` (cuts); what lies beyond is counted in the end bins.
    """
    finite = np.isfinite(values)
    shown = values[finite]
    if not len(shown):
        return {"edges": [], "all": [], "kept": []}
    low, high = np.quantile(shown, [TAIL, 1.0 - TAIL])
    low, high = min(float(low), *include, math.inf), max(float(high), *include, -math.inf)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high, bins = low - 0.5, high + 0.5, 1
    edges = np.linspace(low, high, bins + 1)
    both = (shown, values[finite & kept])
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0].tolist() for part in both]
    return {"edges": edges.tolist(), "all": counts[0], "kept": counts[1]}


def by_decile(x: NDArray[np.float64], by: NDArray[np.float64], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Mean of `x` [N], and its correlation with `by` [N], within each tenth of the rows in rising order of `by`.

    Empty when `by` is constant or there are fewer than 3 rows for every tenth.
    """
    both = np.flatnonzero(np.isfinite(x) & np.isfinite(by))
    if len(both) < 3 * DECILES or np.all(by[both] == by[both[0]]):
        return []
    order = both[score_order(by[both], Picked(ids, both))[::-1]]
    return [
        {
            "decile": number,
            "rows": len(part),
            "low": float(by[part].min()),
            "high": float(by[part].max()),
            "mean_gap": mean(x[part]),
            "pearson": pearson(x[part], by[part]),
        }
        for number, part in enumerate(np.array_split(order, DECILES), start=1)
    ]
