"""Value and slope of a loss along the margin, for plots and tables. numpy float64 only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.losses.recipe import LossSum, build_loss

STEP = 1e-5  # central differences: error about STEP^2 of the third derivative plus 1e-16 / STEP
TOKENS = 20.0


def place(margins: np.ndarray, per_token: bool) -> dict[str, np.ndarray]:
    """Inputs of rows whose margin (summed, or per token) is `margins`, chosen and rejected moving apart evenly.

    The reference stands in the middle, low enough for every log-prob to stay below 0; answers have TOKENS tokens.
    """
    half = 0.5 * margins * (TOKENS if per_token else 1.0)
    middle = np.full_like(half, -(np.max(np.abs(half)) + TOKENS))
    inputs = {
        "chosen": middle + half,
        "rejected": middle - half,
        "ref_chosen": middle,
        "ref_rejected": middle,
    }
    inputs |= {f"{name}_prefix": value for name, value in list(inputs.items())}
    inputs |= {
        "completion": middle + 2 * half,
        "ref_completion": middle,
        "label": np.ones_like(half, dtype=bool),
    }
    inputs |= {name: np.full_like(half, TOKENS) for name in ("chosen_tokens", "rejected_tokens", "tokens")}
    return inputs | {"wpo_weight": np.ones_like(half), "kl": np.asarray(0.0), "progress": np.asarray(0.5)}


def evaluate(loss: LossSum, margins: np.ndarray) -> np.ndarray:
    """The loss [N] at margins [N], each row a step of its own where rows are coupled."""
    per_token = any(term.loss.x == "mean" for term in loss.terms)
    inputs = place(margins, per_token)
    if loss.couples == "none":
        return np.asarray(loss(inputs))
    rows = [
        loss({n: v[k : k + 1] if v.ndim else v for n, v in inputs.items()})[0] for k in range(len(margins))
    ]
    return np.asarray(rows)


def curve(name: str | Mapping[str, Any], margins: Any, **hyper: Any) -> tuple[np.ndarray, np.ndarray]:
    """Value and d value / d margin [N] of a loss at margins [N] (nats; per token for losses of means).

    chosen and rejected move by half the margin each; unpaired losses show a desired completion whose log-ratio is
    the margin, with kl 0; coupled losses see one row per step. The slope is a central difference of step 1e-5, so
    exact to about 1e-9, and halfway between the two sides within 1e-5 of a kink. Raises PrefoptError as build_loss,
    and for margins that are not a list of finite numbers.
    """
    points = np.asarray(margins, dtype=np.float64)
    if points.ndim != 1 or points.size == 0 or not np.all(np.isfinite(points)):
        raise PrefoptError("curve: margins must be a non-empty list of finite numbers")
    spec: dict[str, Any] = {"name": name} if isinstance(name, str) else dict(name)
    if spec["name"] == "budget":
        spec.setdefault("scale", 1.0)
    loss = build_loss({**spec, **hyper})
    # one call, so that both sides share the reference's place
    stacked = evaluate(loss, np.concatenate([points, points + STEP, points - STEP]))
    value, up, down = np.split(stacked, 3)
    return value, (up - down) / (2 * STEP)
