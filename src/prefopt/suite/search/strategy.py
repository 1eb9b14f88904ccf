"""OpenAI's evolution strategy (1703.03864): antithetic normal perturbations, centred ranks, Adam. A function of its state.

D parameters, P members. Everything is float64 numpy, so a state that was saved and read continues to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.rules.describe import ranks

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8  # of Adam (1412.6980)


@dataclass(frozen=True)
class State:
    """centre [D]; Adam's moments [D]; generations done."""

    centre: np.ndarray
    first: np.ndarray
    second: np.ndarray
    generation: int


def begin(centre: np.ndarray) -> State:
    """The state before the first generation."""
    zero = np.zeros_like(centre, dtype=np.float64)
    return State(np.asarray(centre, dtype=np.float64), zero, zero, 0)


def noise_of(state: State, population: int, seed: int) -> np.ndarray:
    """Perturbations [P, D] of this generation in units of sigma: rows 2k and 2k + 1 are each other's negative."""
    rng = np.random.default_rng([seed, 300, state.generation])
    half = rng.standard_normal((population // 2, len(state.centre)))
    return np.stack([half, -half], axis=1).reshape(population, -1)


def centred_ranks(fitness: np.ndarray) -> np.ndarray:
    """Ranks [P] from -0.5 (worst) to 0.5 (best); equal ones share theirs, and what is not a number is worst."""
    worst = np.where(np.isnan(fitness), -np.inf, fitness)
    return (ranks(worst) - 1.0) / (len(fitness) - 1.0) - 0.5


def advance(state: State, noise: np.ndarray, fitness: np.ndarray, sigma: float, rate: float) -> State:
    """The state after a generation with this fitness [P], to be maximised."""
    gradient = centred_ranks(fitness) @ noise / (len(fitness) * sigma)
    step = state.generation + 1
    first = FIRST * state.first + (1 - FIRST) * gradient
    second = SECOND * state.second + (1 - SECOND) * gradient**2
    scale = rate * math.sqrt(1 - SECOND**step) / (1 - FIRST**step)
    centre = state.centre + scale * first / (np.sqrt(second) + EPSILON)
    return State(centre, first, second, step)


def pack(state: State) -> dict[str, np.ndarray]:
    """The state as named arrays."""
    return {
        "centre": state.centre,
        "first": state.first,
        "second": state.second,
        "generation": np.array(state.generation),
    }


def unpack(arrays: Mapping[str, Any]) -> State:
    """The inverse of `pack`."""
    return State(arrays["centre"], arrays["first"], arrays["second"], int(arrays["generation"]))
