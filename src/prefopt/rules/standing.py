"""Scores of a tournament from its matrix of wins W [M, M] (a tie counts half on both sides): Copeland, Bradley-Terry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Aggregate = Literal["copeland", "bradley_terry"]
PRIOR = (
    0.25  # precision of the normal prior on a strength (sd 2 logits): finite strengths for unbeaten answers
)
STEPS = 50  # Newton steps; the objective is strictly concave, about 6 are used


@dataclass(frozen=True)
class Standing:
    """copeland [M]: wins minus losses. share [M]: wins (ties half) per known comparison, 0.5 without one.

    strength, error [M]: Bradley-Terry strength in logits (mean 0) and its standard error. key: what places are decided by.
    """

    copeland: NDArray[np.float64]
    share: NDArray[np.float64]
    strength: NDArray[np.float64]
    error: NDArray[np.float64]
    key: list[tuple[float, float]]


def standing(wins: NDArray[np.float64], aggregate: Aggregate = "copeland") -> Standing:
    """All scores; places go by the share of wins (Copeland over the known comparisons) or by strength.

    In a complete tournament the share orders as the Copeland score does; where comparisons are missing, an answer that
    was compared more often does not gain from that alone.
    """
    won, lost = wins.sum(1), wins.sum(0)
    known = won + lost
    share = np.where(known > 0, won / np.maximum(known, 1.0), 0.5)
    strength, error = bradley_terry(wins)
    # rounded: equal records must give equal keys
    rounded = [(round(float(s), 9), round(float(t), 6)) for s, t in zip(share, strength, strict=True)]
    key = rounded if aggregate == "copeland" else [(t, s) for s, t in rounded]
    return Standing(won - lost, share, strength, error, key)


def bradley_terry(
    wins: NDArray[np.float64], prior: float = PRIOR
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strengths [M] (logits) and standard errors [M]: the mode of sum W_ij log sigmoid(s_i - s_j) - prior/2 sum s_i^2.

    Newton steps from 0 (Bradley and Terry 1952; normal prior). The errors are those of the Laplace approximation,
    sqrt(diag((-Hessian)^-1)); an answer without a comparison has strength 0 and error prior^-1/2.

    Raises:
        ValueError: prior not above 0.
    """
    if prior <= 0:
        raise ValueError(f"prior must be above 0, got {prior}")
    games = wins + wins.T
    strength = np.zeros(len(wins))
    for _ in range(STEPS):
        expected = 1.0 / (1.0 + np.exp(strength[None, :] - strength[:, None]))
        gradient = (wins - games * expected).sum(1) - prior * strength
        curvature = games * expected * (1.0 - expected)
        information = np.diag(curvature.sum(1) + prior) - curvature
        step = np.linalg.solve(information, gradient)
        strength = strength + step * min(1.0, 2.0 / max(float(np.abs(step).max(initial=0.0)), 1e-300))
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return strength, np.sqrt(np.diag(np.linalg.inv(information)))
