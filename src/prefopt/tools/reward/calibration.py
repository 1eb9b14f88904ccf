"""How far stated probabilities can be believed: reliability bins, expected calibration error, Brier score, log-loss.

Input is p = P(the better one is named better) per pair, in 0..1. The stated side is the one above 0.5, the confidence
max(p, 1 - p), in 0.5..1; it is right where p > 0.5, and half right at 0.5. Pure functions on numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from prefopt.rules.intervals import wilson

LEAST = 1e-12  # probabilities are held this far from 0 and 1 in the log-loss
SIZE, LEFT, TOP = 300, 52, 34
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; color: #1a1a1a }
text { fill: currentColor } .title { font-weight: 600; font-size: 13px } .axis { fill: none; stroke: #bbb }
.even { stroke: #999; stroke-dasharray: 5 4 } .bar { fill: #56b4e9; fill-opacity: .35 }
.mark { stroke: #0072b2; stroke-width: 2; fill: #0072b2 } .small { font-size: 11px; opacity: .75 }
@media (prefers-color-scheme: dark) { svg { background: #16181c; color: #e8e8e8 } .axis { stroke: #555 } }"""


def reliability(probabilities: Sequence[float], bins: int = 10) -> list[dict[str, Any]]:
    """Equal-width bins of the confidence over 0.5..1, empty ones left out: range, n, mean confidence, share right.

    `accuracy_low` and `accuracy_high` are the 95% Wilson interval.

    Raises:
        ValueError: bins below 1, or a probability outside 0..1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    p = _checked(probabilities)
    confidence, right = np.maximum(p, 1 - p), np.where(p == 0.5, 0.5, p > 0.5)
    place = np.minimum((2 * (confidence - 0.5) * bins).astype(int), bins - 1)
    found = []
    for index in range(bins):
        mine = place == index
        if n := int(mine.sum()):
            low, high = wilson(float(right[mine].sum()), n)
            found.append({
                "from": 0.5 + index / (2 * bins),
                "to": 0.5 + (index + 1) / (2 * bins),
                "n": n,
                "confidence": float(confidence[mine].mean()),
                "accuracy": float(right[mine].mean()),
                "accuracy_low": low,
                "accuracy_high": high,
            })  # fmt: skip
    return found


def calibration(probabilities: Sequence[float], bins: int = 10) -> dict[str, Any]:
    """Calibration figures of some pairs; nulls where there is none.

    ece = sum_b n_b / n |share right - mean confidence| (Guo et al. 2017, 1706.04599, eq. 3); brier = mean (1 - p)^2;
    log_loss = mean -log p, nats; overconfidence = mean confidence - share right.
    """
    table = reliability(probabilities, bins)
    n = len(probabilities)
    if not n:
        return {"n": 0, "ece": None, "brier": None, "log_loss": None, "overconfidence": None, "bins": []}
    p = _checked(probabilities)
    gaps = [row["n"] / n * (row["confidence"] - row["accuracy"]) for row in table]
    return {
        "n": n,
        "ece": math.fsum(map(abs, gaps)),
        "brier": float(np.mean((1 - p) ** 2)),
        "log_loss": float(-np.mean(np.log(np.clip(p, LEAST, 1.0)))),
        "overconfidence": math.fsum(gaps),
        "bins": table,
    }


def _checked(probabilities: Sequence[float]) -> np.ndarray:
    p = np.asarray(probabilities, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must lie in 0..1")
    return p


def draw_reliability(figures: dict[str, Any], title: str) -> str:
    """The bins of `calibration` as an SVG that stands alone: share right against stated confidence."""

    def at_x(value: float) -> float:
        return LEFT + SIZE * (value - 0.5) / 0.5

    def at_y(value: float) -> float:
        return TOP + SIZE * (1 - value)

    parts = [
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
        f'<rect class="axis" x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}"/>',
        f'<path class="even" d="M{at_x(0.5)} {at_y(0.5)}L{at_x(1)} {at_y(1)}"/>',
    ]
    most = max((row["n"] for row in figures["bins"]), default=1)
    for row in figures["bins"]:
        x, wide = at_x(row["from"]), at_x(row["to"]) - at_x(row["from"])
        tall = SIZE * 0.25 * row["n"] / most  # how many pairs there are, along the bottom
        middle, y = at_x(row["confidence"]), at_y(row["accuracy"])
        text = f"confidence {row['confidence']:.3f}, right {row['accuracy']:.3f}, {row['n']} pairs"
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{TOP + SIZE - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'
            f'<path class="mark" d="M{middle:.1f} {at_y(row["accuracy_low"]):.1f}V{at_y(row["accuracy_high"]):.1f}"/>'
            f'<circle class="mark" cx="{middle:.1f}" cy="{y:.1f}" r="4"><title>{text}</title></circle>'
        )
    for value in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(
            f'<text class="small" x="{at_x(value):.1f}" y="{TOP + SIZE + 16}" text-anchor="middle">{value:g}</text>'
        )
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<text class="small" x="{LEFT - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    ece = "" if figures["ece"] is None else f", ECE {figures['ece']:.3f}"
    label = f"stated confidence; {figures['n']} pairs{ece}"
    parts.append(
        f'<text class="small" x="{LEFT + SIZE / 2}" y="{TOP + SIZE + 36}" text-anchor="middle">{label}</text>'
    )
    width, height = LEFT + SIZE + 24, TOP + SIZE + 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )
