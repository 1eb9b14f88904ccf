"""Statements over lineages: Student's t intervals, paired differences with p-values, Holm's correction within a table.

scipy comes with jax, which the suite needs anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefopt.rules.student import holm

LEVEL = 0.05  # of intervals and of verdicts, the latter within a table


def t_quantile(level: float, freedom: int) -> float:
    """The two-sided quantile: a |t| above it has probability `level` under `freedom` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1.0 - level / 2.0))


def t_probability(t: float, freedom: int) -> float:
    """Two-sided p-value of t."""
    from scipy.special import stdtr

    return float(2.0 * stdtr(freedom, -abs(t))) if math.isfinite(t) else 0.0


def interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """mean, standard_error and half_width of the 95% t interval of one value per lineage (inf where there is one alone)."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return {"mean": float(x.mean()), "standard_error": math.inf, "half_width": math.inf}
    error = float(np.std(x, ddof=1) / math.sqrt(len(x)))
    return {
        "mean": float(x.mean()),
        "standard_error": error,
        "half_width": t_quantile(LEVEL, len(x) - 1) * error,
    }


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict[str, float]:
    """a - b, paired by lineage: difference, standard_error, half_width (95%), z (difference in standard errors), p.

    Raises:
        ValueError: sides of different length, or fewer than two lineages.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"paired: {len(x)} and {len(y)} lineages")
    found = interval(x - y)
    difference, error = found["mean"], found["standard_error"]
    z = difference / error if error > 0 else math.copysign(math.inf, difference) if difference else 0.0
    return {
        "difference": difference,
        "standard_error": error,
        "half_width": found["half_width"],
        "z": z,
        "p": t_probability(z, len(x) - 1) if difference else 1.0,
    }


def with_verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one table with `p_holm` and `verdict`: confirmed, refuted (the other sign) or undecided."""
    corrected = holm([row["p"] for row in rows])
    out = []
    for row, p in zip(rows, corrected, strict=True):
        seen = "confirmed" if row["difference"] > 0 else "refuted"
        out.append({**row, "p_holm": p, "verdict": seen if p < LEVEL else "undecided"})
    return out
