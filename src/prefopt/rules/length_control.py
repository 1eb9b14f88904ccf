"""Length-controlled win rate: what the win rate would be if both answers to every prompt were equally long (2404.04475).

The preferences y for the model over the baseline are fitted by a logistic regression (2404.04475, eq. 2; the baseline's terms are 0),

    logit P(model wins on prompt x) = theta + phi tanh(d_x / sd(d)) + psi gamma_x

d_x: length of the baseline's answer less that of the model's, characters; sd over the prompts of this model. gamma_x: how hard the
prompt is, fitted elsewhere over many models. The length-controlled win rate is the mean of P over the prompts at d = 0.
Anchors are preferences for the baseline asked to be longer or shorter, with theta = 0: they hold phi and psi to what length alone does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefopt.rules.intervals import Z95

Floats = NDArray[np.float64]
Numbers = Sequence[float | int] | NDArray[np.float64]
RIDGE = 1e-3  # keeps the weights finite where one side wins everything; moves no figure of docs/evaluate.md by .01 points
STEPS = 100  # Newton steps; the objective is strictly concave, about 8 are used
ANCHOR_WEIGHT = 0.2  # of all anchors of a prompt together (2404.04475, section 3; its published code)


@dataclass(frozen=True)
class Anchors:
    """Preferences [A] for changed baselines, their terms [A] of length and difficulty, and the weight [A] of each."""

    preferences: Floats
    length_terms: Floats
    difficulty: Floats
    weights: Floats


def length_terms(baseline: Sequence[int], model: Sequence[int]) -> Floats:
    """tanh(d / sd(d)) [n] of answers with these lengths, characters; 0 where all differences are equal."""
    difference = np.asarray(baseline, dtype=np.float64) - np.asarray(model, dtype=np.float64)
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def length_controlled(
    preferences: Numbers,
    terms: Numbers,
    difficulty: Numbers | None = None,
    anchors: Anchors | None = None,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """The length-controlled win rate with a 95% interval by prompt: `{"mean", "low", "high", "n", "weights"}`.

    preferences [n]: for the model, 0..1. terms [n]: of `length_terms`. groups [n]: the prompt of each (default: each its own).
    weights: `length` (phi), `model` (theta) and `difficulty` (psi, where it is given). The interval is that of the estimate's
    influence values summed by prompt (the sandwich variance of the regression and the spread of prompts), on the logit scale;
    anchors count as known. Nulls for fewer than two prompts.

    Raises:
        ValueError: lengths differ, or anchors without difficulties.
    """
    y = np.asarray(preferences, dtype=np.float64)
    columns = [np.asarray(terms, dtype=np.float64), np.ones_like(y)]
    if difficulty is not None:
        columns.append(np.asarray(difficulty, dtype=np.float64))
    if any(len(column) != len(y) for column in columns) or (groups is not None and len(groups) != len(y)):
        raise ValueError("preferences, terms, difficulties and groups must have equal length")
    if anchors is not None and difficulty is None:
        raise ValueError("anchors need the difficulty of every prompt")
    names = list(range(len(y))) if groups is None else list(groups)
    places: dict[Hashable, int] = {}
    numbers = [places.setdefault(name, len(places)) for name in names]
    n = len(places)
    if n < 2:
        return {"mean": None, "low": None, "high": None, "n": n, "weights": None}
    x = np.stack(columns, axis=1)
    theta, information = _fit(x, y, anchors)
    equal = x.copy()
    equal[:, 0] = 0.0  # answers of equal length
    p = _sigmoid(equal @ theta)
    mean = float(p.mean())
    slope = (equal * (p * (1 - p))[:, None]).mean(0)
    own = (p - mean) / len(y) + (x * (y - _sigmoid(x @ theta))[:, None]) @ np.linalg.solve(information, slope)
    variance = float((np.bincount(numbers, own) ** 2).sum()) * n / (n - 1)
    low, high = _on_logits(mean, math.sqrt(variance))
    weights = dict(zip(("length", "model", "difficulty"), map(float, theta), strict=False))
    return {"mean": mean, "low": low, "high": high, "n": n, "weights": weights}


def _fit(x: Floats, y: Floats, anchors: Anchors | None) -> tuple[Floats, Floats]:
    """Weights [k] and the information matrix [k, k] at them; Newton steps from 0."""
    weights = np.ones_like(y)
    if anchors is not None:
        zero = np.zeros_like(anchors.preferences)
        x = np.concatenate([x, np.stack([anchors.length_terms, zero, anchors.difficulty], axis=1)])
        y = np.concatenate([y, anchors.preferences])
        weights = np.concatenate([weights, anchors.weights])
    theta = np.zeros(x.shape[1])
    for _ in range(STEPS):
        p = _sigmoid(x @ theta)
        gradient = x.T @ (weights * (y - p)) - RIDGE * theta
        information = (x * (weights * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(theta))
        step = np.linalg.solve(information, gradient)
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-10:
            break
    return theta, information


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _on_logits(mean: float, error: float) -> tuple[float, float]:
    """Ends of the interval of a share with this standard error, never outside 0..1."""
    slope = mean * (1 - mean)
    if slope <= 0:
        return mean, mean
    centre, half = math.log(mean / (1 - mean)), Z95 * error / slope
    ends = [0.5 * (1 + math.tanh(0.5 * (centre + sign * half))) for sign in (-1, 1)]
    return ends[0], ends[1]
