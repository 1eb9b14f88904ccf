"""Preference training of a population: a pure function of (loss, hyperparameters, learning rate, pairs, weights, seed).

P members, M pairs each, B pairs per update, K steps drawn per trajectory, O observations, A actions. The losses come from
`prefopt.losses`, unchanged. Members of equal structure (same loss terms, same M) share one compiled function, called for one
member after the other (`map`, on a CPU 2.4-4.7x faster than a batched network per member; threads share the members) or
mapped over all of them at once (`vmap`, for a GPU). The numbers of the loss, learned maps included, are traced.

Convention: a trajectory's log-prob is summed over its steps and action dimensions. Per update it is estimated from K
steps, drawn in K equal parts of the trajectory: steps / K times their sum, the same steps for policy and reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from prefopt.core.settings import Config
from prefopt.losses import LossSum, build_loss
from prefopt.losses.unpaired import z_ref
from prefopt.suite.data.bank import Bank
from prefopt.suite.inner.traced_loss import loss_with, split_loss
from prefopt.suite.simulator.environments import MAX_STEPS
from prefopt.suite.simulator.policy import FROZEN, Params, log_prob, normalise

HISTORY = (
    "loss",
    "accuracy",
    "chosen_reward",
    "rejected_reward",
)  # rewards: log-ratio in nats per trajectory


class InnerConfig(Config):
    """How every member is trained."""

    updates: int = Field(400, gt=0, description="optimizer steps")
    pairs: int = Field(16, gt=0, description="pairs per update")
    steps_drawn: int = Field(
        64, ge=0, description="steps drawn per trajectory and update; 0 takes every step"
    )
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are clipped to this norm")
    adam_eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    snapshots: int = Field(1, gt=0, description="policies kept, evenly spread; the last one is the result")
    batching: str = Field("map", pattern="^(map|vmap)$", description="map (CPU) or vmap (GPU)")

    @model_validator(mode="after")
    def _even(self) -> InnerConfig:
        if self.updates % self.snapshots:
            raise ValueError(f"updates must be a multiple of snapshots ({self.updates}, {self.snapshots})")
        return self


@dataclass(frozen=True)
class Member:
    """One training: loss as in a recipe, learning rate, pairs winner, loser [M], weights [M], seed.

    stop: updates after which training ends and the policy stays (None: at the end); a temporal loss reaches t = 1 there.
    """

    loss: Any
    learning_rate: float
    winner: np.ndarray
    loser: np.ndarray
    weights: np.ndarray
    seed: int
    stop: int | None = None


@dataclass(frozen=True)
class Trained:
    """policies: stacked [P, snapshots, ...], with the frozen observation statistics; history [P, updates, len(HISTORY)]."""

    policies: Params
    history: np.ndarray

    def final(self) -> Params:
        """The last snapshot of every member, stacked [P, ...]."""
        return {name: x[:, -1] for name, x in self.policies.items()}


def train_population(
    bank: Bank, reference: Params, members: Sequence[Member], config: InnerConfig, *, workers: int = 1
) -> Trained:
    """Trains every member from the reference policy. A member's result does not depend on the others (under `vmap` to
    rounding, else not at all). workers: threads that share the members, since one training keeps one core busy.

    Raises:
        PrefoptError: unknown loss or hyperparameter, or one that wants what trajectories do not have.
    """
    import jax

    arrays = device_bank(bank, reference)
    start = {name: x for name, x in reference.items() if name not in FROZEN}
    groups: dict[Any, list[int]] = {}
    losses = [build_loss(member.loss) for member in members]
    split = [split_loss(loss) for loss in losses]
    for k, member in enumerate(members):
        groups.setdefault((split[k][0], len(member.winner)), []).append(k)
    results: list[Any] = [None] * len(members)

    def train(key: Any, where: Sequence[int]) -> None:
        run = _compiled(key[0], losses[where[0]], config, key[1])
        inputs = [_inputs(members[k], split[k][1], config) for k in where]
        if config.batching == "map":
            for k, own in zip(where, inputs, strict=True):
                results[k] = jax.device_get(run(arrays, start, own))
            return
        policies, history = jax.device_get(run(arrays, start, jax.tree.map(lambda *x: np.stack(x), *inputs)))
        for j, k in enumerate(where):
            results[k] = ({name: x[j] for name, x in policies.items()}, history[j])

    parts = [
        (key, part) for key, where in groups.items() for n in range(workers) if (part := where[n::workers])
    ]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda each: train(*each), parts))
    policies = {name: np.stack([r[0][name] for r in results]) for name in start}
    for name in FROZEN:
        policies[name] = np.broadcast_to(
            reference[name], (len(members), config.snapshots, *reference[name].shape)
        )
    return Trained(policies, np.stack([r[1] for r in results]))


def _inputs(member: Member, numbers: Mapping[str, Any], config: InnerConfig) -> dict[str, Any]:
    return {
        "numbers": dict(numbers),
        "learning_rate": np.float32(member.learning_rate),
        "winner": member.winner.astype(np.int32),
        "loser": member.loser.astype(np.int32),
        "weights": member.weights.astype(np.float32),
        "seed": np.uint32(member.seed),
        "stop": np.int32(config.updates if member.stop is None else member.stop),
    }


def device_bank(bank: Bank, reference: Params) -> dict[str, Any]:
    """The bank's arrays as training reads them: observations normalised by the reference's statistics.

    Steps are padded to one of two lengths per doubling, so that banks of about the same size share compiled functions.
    """
    import jax.numpy as jnp

    steps = len(bank.ref_logps)
    grain = max(8192, 2 ** (steps.bit_length() - 2))
    more = -steps % grain

    def padded(x: np.ndarray) -> Any:
        return jnp.asarray(np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)))

    return {
        "features": padded(normalise(reference, bank.observations)),
        "actions": padded(bank.actions),
        "ref_logps": padded(bank.ref_logps),
        "offsets": jnp.asarray(bank.offsets, dtype=jnp.int32),
        "lengths": jnp.asarray(bank.lengths, dtype=jnp.int32),
    }


_COMPILED: dict[Any, Any] = {}


def _compiled(structure: str, loss: LossSum, config: InnerConfig, rows: int) -> Any:
    """The jitted training of a structure's member (`vmap`: members); kept, since compiling costs a second or two."""
    import jax

    key = (structure, config, rows)
    if key not in _COMPILED:
        one = member_function(loss, config, rows)

        def many(arrays: Any, start: Any, stacked: Any) -> Any:
            return jax.vmap(lambda member: one(arrays, start, member))(stacked)

        _COMPILED[key] = jax.jit(many if config.batching == "vmap" else one)
    return _COMPILED[key]


def member_function(loss: LossSum, config: InnerConfig, rows: int) -> Callable[..., Any]:
    """train(arrays, start, member) -> (snapshots, history), traceable by jax."""
    import jax
    import jax.numpy as jnp
    import optax

    size = min(config.pairs, rows)
    passes = -(-config.updates * size // rows)
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=config.adam_eps)
    )

    def train(arrays: Any, start: Params, member: Any) -> Any:
        value = loss_with(loss, member["numbers"])
        order_key, step_key = jax.random.split(jax.random.key(member["seed"]))
        orders = jax.vmap(lambda key: jax.random.permutation(key, rows))(jax.random.split(order_key, passes))
        batches = orders.reshape(-1)[: config.updates * size].reshape(config.updates, size)

        def objective(params: Params, batch: Any, step: Any) -> Any:
            key = jax.random.fold_in(step_key, step)
            inputs = pair_inputs(params, arrays, member["winner"][batch], member["loser"][batch], key, config)
            inputs["progress"] = jnp.minimum(1.0, step / member["stop"])
            weights = member["weights"][batch]
            return weighted_mean(value, loss, inputs, weights), history_row(inputs)

        def update(carry: Any, x: Any) -> Any:
            (params, state), (batch, step) = carry, x
            (mean, seen), grads = jax.value_and_grad(objective, has_aux=True)(params, batch, step)
            direction, state = chain.update(grads, state)
            params = optax.apply_updates(
                params, jax.tree.map(lambda d: -member["learning_rate"] * d, direction)
            )
            return (params, state), jnp.concatenate([mean[None], seen])

        def stopped(carry: Any, x: Any) -> Any:
            return carry, jnp.full(len(HISTORY), jnp.nan)

        def update_or_stop(carry: Any, x: Any) -> Any:
            return jax.lax.cond(x[1] < member["stop"], update, stopped, carry, x)

        def segment(carry: Any, x: Any) -> Any:
            carry, seen = jax.lax.scan(update_or_stop, carry, x)
            return carry, (carry[0], seen)

        shape = (config.snapshots, config.updates // config.snapshots)
        steps = (batches.reshape(*shape, size), jnp.arange(config.updates).reshape(shape))
        _, (kept, history) = jax.lax.scan(segment, (start, chain.init(start)), steps)
        return kept, history.reshape(config.updates, -1)

    return train


def pair_inputs(
    params: Params, arrays: Any, winner: Any, loser: Any, key: Any, config: InnerConfig
) -> dict[str, Any]:
    """What the losses read, [B] each: summed log-probs of policy and reference, token counts."""
    import jax

    keys = jax.random.split(key)
    inputs: dict[str, Any] = {}
    for name, index, own in (("chosen", winner, keys[0]), ("rejected", loser, keys[1])):
        policy, ref, tokens = trajectory_logps(params, arrays, index, own, config.steps_drawn)
        inputs |= {name: policy, f"ref_{name}": ref, f"{name}_tokens": tokens}
    return inputs


def trajectory_logps(params: Params, arrays: Any, index: Any, key: Any, drawn: int) -> tuple[Any, Any, Any]:
    """Log-probs [B] of trajectories under policy and reference, nats, and their tokens; from `drawn` steps (0: all)."""
    import jax
    import jax.numpy as jnp

    lengths = arrays["lengths"][index]
    if drawn:
        place = (jnp.arange(drawn) + jax.random.uniform(key, (len(index), drawn))) / drawn
        steps = jnp.minimum((place * lengths[:, None]).astype(jnp.int32), lengths[:, None] - 1)
        weight = jnp.broadcast_to(lengths[:, None] / drawn, steps.shape)
    else:
        steps = jnp.arange(MAX_STEPS)[None]
        weight = (steps < lengths[:, None]).astype(jnp.float32)
        steps = jnp.minimum(steps, lengths[:, None] - 1)
    where = arrays["offsets"][index][:, None] + steps
    actions = arrays["actions"][where]
    policy = jnp.sum(weight * log_prob(params, arrays["features"][where], actions), axis=1)
    ref = jnp.sum(weight * arrays["ref_logps"][where], axis=1)
    return policy, ref, (lengths * actions.shape[-1]).astype(jnp.float32)


def weighted_mean(value: Any, loss: LossSum, inputs: Mapping[str, Any], weights: Any) -> Any:
    """Mean over the update of weight * loss. Unpaired losses read both answers of every pair, each with its weight.

    KTO's reference point is the mean log-ratio of the update's own trajectories: a trajectory contains its start state, so
    exchanging it against another one would change nothing.
    """
    import jax.numpy as jnp

    if loss.kind != "unpaired":
        return jnp.mean(weights * value(inputs))
    both = {
        "completion": jnp.concatenate([inputs["chosen"], inputs["rejected"]]),
        "ref_completion": jnp.concatenate([inputs["ref_chosen"], inputs["ref_rejected"]]),
        "tokens": jnp.concatenate([inputs["chosen_tokens"], inputs["rejected_tokens"]]),
        "label": jnp.arange(2 * len(weights)) < len(weights),
    }
    both["kl"] = z_ref(both["completion"], both["ref_completion"])
    return jnp.mean(jnp.concatenate([weights, weights]) * value({**inputs, **both}))


def history_row(inputs: Mapping[str, Any]) -> Any:
    """accuracy, chosen_reward, rejected_reward of an update (HISTORY without the loss)."""
    import jax.numpy as jnp

    chosen, rejected = inputs["chosen"] - inputs["ref_chosen"], inputs["rejected"] - inputs["ref_rejected"]
    return jnp.stack(
        [jnp.mean((chosen > rejected).astype(jnp.float32)), jnp.mean(chosen), jnp.mean(rejected)]
    )
