"""Held-out training signals: pair accuracy and loss of snapshots on pairs that no update saw.

A signal that a language-model trainer has too (no return is looked at), so it may say when to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.losses import LossSum, build_loss
from prefopt.suite.data.bank import Bank
from prefopt.suite.data.variants import Pairs
from prefopt.suite.inner.traced_loss import loss_with, split_loss
from prefopt.suite.inner.training import InnerConfig, device_bank, history_row, pair_inputs, weighted_mean
from prefopt.suite.simulator.policy import FROZEN, Params

DRAWS = 4  # batches of drawn steps per trajectory that a signal averages over


@dataclass(frozen=True)
class Signals:
    """loss, accuracy [S] of a training's snapshots on the held-out pairs."""

    loss: np.ndarray
    accuracy: np.ndarray

    def stop(self) -> int:
        """Index of the snapshot with the lowest loss, the earliest among equals; one that is not a number never wins."""
        return int(np.argmin(np.where(np.isfinite(self.loss), self.loss, np.inf)))


def held_out_signals(
    bank: Bank, reference: Params, loss: Any, snapshots: Params, pairs: Pairs, config: InnerConfig
) -> Signals:
    """The signals of one training's snapshots, stacked [S, ...], over all pairs at once.

    loss: as in a recipe. Temporal losses are read at the time of each snapshot.
    """
    import jax

    built = build_loss(loss)
    structure, numbers = split_loss(built)
    arrays = device_bank(bank, reference)
    trained = {name: x for name, x in snapshots.items() if name not in FROZEN}
    count = len(next(iter(trained.values())))
    at = (np.arange(count, dtype=np.float32) + 1.0) / count
    run = _compiled(structure, built, config)
    index = (pairs.winner.astype(np.int32), pairs.loser.astype(np.int32))
    out = np.asarray(jax.device_get(run(arrays, trained, numbers, *index, at)))
    return Signals(out[:, 0], out[:, 1])


_COMPILED: dict[Any, Callable[..., Any]] = {}


def _compiled(structure: str, loss: LossSum, config: InnerConfig) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    if (structure, config) not in _COMPILED:

        def signals(arrays: Any, snapshots: Any, numbers: Any, winner: Any, loser: Any, at: Any) -> Any:
            value = loss_with(loss, numbers)

            def one(x: Any) -> Any:
                params, progress, key = x
                inputs = pair_inputs(params, arrays, winner, loser, key, config)
                inputs["progress"] = progress
                mean = weighted_mean(value, loss, inputs, jnp.ones(len(winner)))
                return jnp.stack([mean, history_row(inputs)[0]])

            def snapshot(x: Any) -> Any:
                params, progress = x
                keys = jax.random.split(jax.random.key(0), DRAWS)  # the same draws for every snapshot
                return jnp.mean(jax.lax.map(lambda key: one((params, progress, key)), keys), axis=0)

            return jax.lax.map(snapshot, (snapshots, at))

        _COMPILED[structure, config] = jax.jit(signals)
    return _COMPILED[structure, config]
