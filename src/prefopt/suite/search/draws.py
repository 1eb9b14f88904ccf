"""Random points of the searched class, for `method: halving`: powers of x by their slopes, a strength, a step size, a length.

A map is one or two of log x, x^(1/3), x^(1/2), x, x^2, x^3, each scaled to slope 1 per nat at x = TYPICAL; so a strength of 1
pushes the pair apart as hard as psi pulls the winner up, whatever the shapes. Powers above 0 have a slope that dies with x:
trajectories that the policy finds unlikely count less, where log x never lets go of them.
"""

from __future__ import annotations

import math

import numpy as np

from prefopt.suite.search.space import LENGTH_SCALE, RATE_SCALE, Space

TYPICAL = 0.05  # x of a reference trajectory under the reference: e^-3 (Hopper; experts' are e^-4 to e^-5.4)
UNIT_OF = {
    3.0: 0,
    2.0: 1,
    0.5: 2,
    1 / 3: 3,
}  # powers that are a unit of the learned map; 1 is its `a`, 0 its `c`
POWERS = (0.0, 1 / 3, 0.5, 1.0, 2.0, 3.0)
WITHOUT_PSI = 0.05  # share of the draws
STRENGTH = (0.03, 5.0)
BETA = {"k0": (0.3, 30.0), "k1": (1.0, 1.0), "k2": (0.05, 1.0)}  # of each shape of g
RATE = (1e-3, 1.2e-2)
SHORTEST = 0.5  # share of the whole training; half of the draws take all of it


def draw(space: Space, rng: np.random.Generator) -> np.ndarray:
    """A vector [D] of `space` (units >= 1). Temporal: the strength grows from 0, falls to 0, or stays, a third each."""
    vector = np.zeros(space.size)
    blocks = space.split(vector)
    _draw_map(blocks, "phi_inv", rng)
    alone = rng.random() < WITHOUT_PSI
    _draw_map(blocks, "psi", rng, scale=0.0 if alone else 1.0)
    shape = str(rng.choice(list(BETA)))
    beta = _log_uniform(rng, *BETA[shape])
    blocks["g.beta"][0] = beta
    blocks[f"g.{shape}"][0] = (2.0 if shape == "k0" else 1.0) / beta  # slope 1 at u = 0
    strength = _log_uniform(rng, *STRENGTH)
    kind = int(rng.integers(3))
    blocks["lam"][0] = 1.0 if alone and not space.temporal else strength
    if space.temporal:
        blocks["lam"][:] = ([strength, 0.0], [0.0, strength], [strength, -strength])[kind]
    blocks["rate"][0] = math.log(_log_uniform(rng, *RATE) / space.learning_rate) / RATE_SCALE
    length = 1.0 if rng.random() < 0.5 else rng.uniform(SHORTEST, 1.0)
    blocks["length"][0] = (length - space.length) / LENGTH_SCALE
    return vector


def _draw_map(blocks: dict[str, np.ndarray], part: str, rng: np.random.Generator, scale: float = 1.0) -> None:
    """One or two powers whose slopes at TYPICAL sum to `scale`."""
    powers = rng.choice(POWERS, size=int(rng.integers(1, 3)), replace=False)
    weights = np.array([_log_uniform(rng, 0.1, 1.0) for _ in powers])
    for power, weight in zip(powers, scale * weights / weights.sum(), strict=True):
        if power == 0.0:
            blocks[f"{part}.c"][0] = weight
        elif power == 1.0:
            blocks[f"{part}.a"][0] = weight / TYPICAL
        else:
            unit = UNIT_OF[float(power)]
            blocks[f"{part}.v"][unit, 0] = weight / power
            blocks[f"{part}.w"][unit, 0] = 1.0 / TYPICAL


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))
