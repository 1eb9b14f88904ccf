"""The searched class: a vector of numbers <-> a mirror loss of learned maps, a learning rate and a length of training.

D numbers, n units of each of the six kinds. Raw numbers are unbounded; what must not be negative acts at max(0, raw). At
the start all units are 0 and the coefficients are the baseline's, so the first centre is the baseline itself. Learning rate
and length are searched too, lest a loss win by its step size alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.losses.mirror import MAPS, UNITS, apply

RATE_SCALE = 4.0  # raw 0.05 (one sigma) is a factor of e^0.2 in the learning rate
RATE_BOUND = 3.5  # at most a factor of e^3.5 = 33 from the baseline's
LENGTH_SCALE = 2.0  # raw 0.05 is a tenth of the whole training
SHORTEST = 0.025  # of the whole training
LEAST_BETA = 1e-3
START = {  # coefficients at which the class is ORPO
    "phi_inv": {"a": 0.0, "c": 1.0, "d": 1.0},
    "psi": {"a": 0.0, "c": 1.0, "d": 0.0},
    "g": {"k0": 1.0, "k1": 0.0, "k2": 0.0, "beta": 1.0},
}


@dataclass(frozen=True)
class Candidate:
    """A loss as in a recipe (arrays, so that all candidates are one structure), a learning rate, updates until the stop."""

    loss: dict[str, Any]
    learning_rate: float
    stop: int


@dataclass(frozen=True)
class Space:
    """units: n; temporal: a, c, d, lam are [p0, p1] and units shift with t; reference: u has the reference's bracket.

    lam, learning_rate, length (share of the training): the baseline's, where the search starts.
    """

    units: int
    temporal: bool
    reference: bool
    lam: float
    learning_rate: float
    length: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each block of the vector, in order."""
        table = (len(UNITS), self.units)
        number = (2,) if self.temporal else (1,)
        out: dict[str, tuple[int, ...]] = {}
        for part in ("phi_inv", "psi"):
            out |= {f"{part}.{name}": table for name in ("v", "w", "b", *(("q",) if self.temporal else ()))}
            out |= {f"{part}.{name}": number for name in START[part]}
        out |= {f"g.{name}": (1,) for name in START["g"]}
        return out | {"lam": number, "rate": (1,), "length": (1,)}

    @property
    def size(self) -> int:
        """D."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def split(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The vector's blocks by name."""
        out, at = {}, 0
        for name, shape in self.shapes().items():
            out[name] = vector[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
        return out

    def start(self) -> np.ndarray:
        """The vector [D] of the baseline."""
        vector = np.zeros(self.size)
        blocks = self.split(vector)  # views
        for part, values in START.items():
            for name, value in values.items():
                blocks[f"{part}.{name}"][0] = value
        blocks["lam"][0] = self.lam
        return vector

    def candidate(self, vector: np.ndarray, updates: int) -> Candidate:
        """What the vector means for a training of at most `updates`."""
        blocks = self.split(vector)
        rate = np.clip(RATE_SCALE * blocks["rate"][0], -RATE_BOUND, RATE_BOUND)
        length = np.clip(self.length + LENGTH_SCALE * blocks["length"][0], SHORTEST, 1.0)
        g = {name: self._positive(blocks[f"g.{name}"]) for name in START["g"]}
        g["beta"] = np.maximum(g["beta"], np.float32(LEAST_BETA))
        loss = {
            "name": "mirror",
            "x": "mean",
            "reference": self.reference,
            "phi_inv": self._map(blocks, "phi_inv"),
            "psi": self._map(blocks, "psi"),
            "g": {"name": "learned", **g},
            "lam": self._coefficient(blocks["lam"]),
        }
        stop = max(1, round(float(length) * updates))
        return Candidate(loss, self.learning_rate * math.exp(float(rate)), stop)

    def _map(self, blocks: Mapping[str, np.ndarray], part: str) -> dict[str, Any]:
        units = {
            name: np.maximum(blocks[f"{part}.{name}"], 0.0).astype(np.float32) for name in ("v", "w", "b")
        }
        if self.temporal:
            units["q"] = blocks[f"{part}.q"].astype(np.float32)
        numbers = {name: self._coefficient(blocks[f"{part}.{name}"]) for name in START[part]}
        return {"name": "learned", "units": units, **numbers}

    def _coefficient(self, block: np.ndarray) -> np.ndarray:
        """[p0, p1], rectified where it acts, or a number at max(0, raw)."""
        return block.astype(np.float32) if self.temporal else self._positive(block)

    def _positive(self, block: np.ndarray) -> np.ndarray:
        return np.asarray(max(0.0, float(block[0])), dtype=np.float32)


def closed_form(loss: Mapping[str, Any]) -> dict[str, Any]:
    """The loss with phi_inv and psi fitted on {x, log x, -log(1-x)}, coefficients >= 0: does the simple form keep the gain?

    Least squares over log x from -8 to log .999, as the exported file's fit. A temporal map is fitted at t = 0 and t = 1.
    """
    simple = dict(loss)
    for part in ("phi_inv", "psi"):
        ends = [_fit(loss[part], t) for t in (0.0, 1.0)]
        temporal = "q" in loss[part]["units"]
        simple[part] = {
            "name": "learned",
            **{
                name: np.asarray([first, last - first] if temporal else first, dtype=np.float32)
                for name, first, last in zip(("a", "c", "d"), *ends, strict=True)
            },
        }
    return simple


def _fit(part: Mapping[str, Any], t: float) -> list[float]:
    from scipy.optimize import nnls

    log_x = np.linspace(-8.0, math.log(0.999), 400)
    y = np.asarray(apply(MAPS, part, log_x, t), dtype=np.float64)
    basis = np.stack([np.exp(log_x), log_x, -np.log(-np.expm1(log_x))], axis=1)
    centred = basis - basis.mean(axis=0)  # a constant cancels in phi_inv, and in psi it has no slope
    fitted, _ = nnls(centred, y - y.mean())
    return [float(value) for value in fitted]
