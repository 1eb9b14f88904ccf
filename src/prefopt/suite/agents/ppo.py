"""Proximal policy optimization (1707.06347) in JAX: a pure function of the seed, continued from any of its states.

N environments, T steps per iteration, O observations, A actions. Physics and the policy's forward pass run in numpy; values,
advantages and updates are one jitted function. Observations and rewards are normalised by running statistics, which are
frozen in every checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field

from prefopt.core.settings import Config
from prefopt.suite.simulator.environments import MAX_STEPS
from prefopt.suite.simulator.policy import (
    Params,
    act,
    init_network,
    init_policy,
    log_prob,
    network,
    normalise,
)
from prefopt.suite.simulator.simulator import Simulator, State

REWARD_CLIP = 10.0


class PPOConfig(Config):
    """Settings of the agents' training; the defaults are those of the 37 implementation details (Huang et al., 2022)."""

    steps: int = Field(800_000, gt=0, description="steps simulated in all")
    environments: int = Field(16, gt=0, description="environments side by side")
    horizon: int = Field(128, gt=0, description="steps of each environment per iteration")
    epochs: int = Field(10, gt=0, description="passes over an iteration's steps")
    minibatches: int = Field(32, gt=0, description="updates per pass")
    learning_rate: float = Field(3e-4, gt=0, description="Adam's rate at the start; falls linearly to 0")
    discount: float = Field(0.99, gt=0, lt=1, description="of future rewards")
    gae: float = Field(0.95, gt=0, le=1, description="lambda of generalised advantage estimation")
    clip: float = Field(0.2, gt=0, description="of the probability ratio")
    max_grad_norm: float = Field(0.5, gt=0, description="gradients are clipped to this norm")
    hidden: int = Field(64, gt=0, description="width of the two tanh layers")
    checkpoint_every: int = Field(10, gt=0, description="iterations between checkpoints")

    @property
    def iterations(self) -> int:
        """How many rounds of collecting and updating."""
        return max(1, self.steps // (self.environments * self.horizon))


@dataclass(frozen=True)
class Moments:
    """Running mean and variance (Chan's batch update)."""

    mean: np.ndarray
    var: np.ndarray
    count: float

    def update(self, x: np.ndarray) -> Moments:
        """With the rows of x [B, ...] added."""
        rows, mean, var = len(x), x.mean(axis=0), x.var(axis=0)
        total, delta = self.count + rows, mean - self.mean
        spread = self.var * self.count + var * rows + delta**2 * self.count * rows / total
        return Moments(self.mean + delta * rows / total, spread / total, total)


@dataclass(frozen=True)
class PPOState:
    """Everything between two iterations. actor, critic: parameters; optimizer: its leaves; the rest [N] or statistics."""

    actor: Params
    critic: Params
    optimizer: list[np.ndarray]
    observations: Moments
    rewards: Moments
    simulated: State
    observation: np.ndarray  # [N, O]
    age: np.ndarray  # steps of the running episodes
    episode_return: np.ndarray
    discounted: np.ndarray  # discounted return so far, for the reward's scale
    iteration: int


def init(simulator: Simulator, config: PPOConfig, seed: int) -> PPOState:
    """The state before the first iteration."""
    env, count = simulator.environment, config.environments
    rng = np.random.default_rng([seed, 0])
    actor = init_policy(rng, env.observation_dims, env.action_dims, config.hidden)
    critic = init_network(rng, (env.observation_dims, config.hidden, config.hidden, 1), 1.0)
    start = simulator.reset(count, rng)
    observation = simulator.observe(start)
    zero = np.zeros(count)
    observed = Moments(np.zeros(env.observation_dims), np.ones(env.observation_dims), 1e-4).update(
        observation
    )
    _, leaves = _optimizer(config, actor, critic)
    return PPOState(
        _with_statistics(actor, observed), critic, leaves, observed, Moments(np.zeros(()), np.ones(()), 1e-4),
        start, observation, np.zeros(count, dtype=np.int64), zero, zero, 0,
    )  # fmt: skip


def _with_statistics(actor: Params, observed: Moments) -> Params:
    return {
        **actor,
        "obs_mean": observed.mean.astype(np.float32),
        "obs_std": np.sqrt(observed.var + 1e-8).astype(np.float32),
    }


def _trainable(actor: Params) -> Params:
    return {name: x for name, x in actor.items() if not name.startswith("obs_")}


def iterate(
    simulator: Simulator, config: PPOConfig, seed: int, state: PPOState
) -> tuple[PPOState, list[float]]:
    """One iteration: collect T steps of N environments, then update. Also gives the returns of finished episodes."""
    rng = np.random.default_rng([seed, 1, state.iteration])
    state, batch, finished = collect(simulator, config, state, rng)
    nets = {"actor": _trainable(state.actor), "critic": state.critic}
    share = 1.0 - state.iteration / config.iterations
    order = np.stack(
        [rng.permutation(batch["action"].shape[0] * batch["action"].shape[1]) for _ in range(config.epochs)]
    )
    update = _update_function(config, state.actor["log_std"].shape[0])
    nets, leaves = update(nets, state.optimizer, batch, order, np.float32(config.learning_rate * share))
    host = {name: {k: np.asarray(x) for k, x in net.items()} for name, net in nets.items()}
    actor = _with_statistics(host["actor"], state.observations)
    state = dataclasses.replace(
        state,
        actor=actor,
        critic=host["critic"],
        optimizer=[np.asarray(x) for x in leaves],
        iteration=state.iteration + 1,
    )
    return state, finished


def collect(
    simulator: Simulator, config: PPOConfig, state: PPOState, rng: np.random.Generator
) -> tuple[PPOState, dict[str, np.ndarray], list[float]]:
    """T steps of N environments: features, actions, log-probs, scaled rewards, values to bootstrap, ends; [T, N, ...]."""
    names = ("features", "action", "reward", "ended", "bootstrap")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    finished: list[float] = []
    actor, scale_moments, observed = state.actor, state.rewards, state.observations
    simulated, observation = state.simulated, state.observation
    age, total, discounted = state.age.copy(), state.episode_return.copy(), state.discounted.copy()
    for _ in range(config.horizon):
        noise = rng.standard_normal((config.environments, actor["log_std"].shape[0]), dtype=np.float32)
        action = act(actor, observation, noise)
        rows["features"].append(normalise(actor, observation.astype(np.float32)))
        step = simulator.step(simulated, np.clip(action, -1.0, 1.0))
        simulated, observation = step.state, step.observation
        age, total, discounted = age + 1, total + step.reward, config.discount * discounted + step.reward
        scale_moments = scale_moments.update(discounted)
        observed = observed.update(observation)
        reward = step.reward / np.sqrt(scale_moments.var + 1e-8)
        cut = (age >= MAX_STEPS) & ~step.terminated
        ended = step.terminated | cut
        value = network(state.critic, normalise(actor, observation.astype(np.float32)))[:, 0]
        rows["action"].append(action)
        rows["reward"].append(np.clip(reward, -REWARD_CLIP, REWARD_CLIP))
        rows["ended"].append(ended)
        rows["bootstrap"].append(np.where(step.terminated, 0.0, value))
        if ended.any():
            finished += total[ended].tolist()
            where = np.flatnonzero(ended)
            fresh = simulator.reset(len(where), rng)
            simulated = simulated.put(where, fresh)
            observation = observation.copy()
            observation[where] = simulator.observe(fresh)
            age[where], total[where], discounted[where] = 0, 0.0, 0.0
    batch = {name: np.stack(x).astype(np.float32) for name, x in rows.items()}
    state = dataclasses.replace(
        state, observations=observed, rewards=scale_moments, simulated=simulated, observation=observation,
        age=age, episode_return=total, discounted=discounted,
    )  # fmt: skip
    return state, batch, finished


def _optimizer(config: PPOConfig, actor: Params, critic: Params) -> tuple[Any, list[np.ndarray]]:
    """The gradient transformation (the rate is applied outside) and the leaves of its first state."""
    import jax
    import optax

    chain = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    state = chain.init({"actor": _trainable(actor), "critic": critic})
    return chain, [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@lru_cache(maxsize=8)
def _update_function(config: PPOConfig, actions: int) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp
    import optax

    chain, _ = _optimizer(config, {}, {})

    def loss(nets: Any, part: Any) -> Any:
        ratio = jnp.exp(log_prob(nets["actor"], part["features"], part["action"]) - part["log_prob"])
        gain = (part["advantage"] - part["advantage"].mean()) / (part["advantage"].std() + 1e-8)
        clipped = jnp.clip(ratio, 1.0 - config.clip, 1.0 + config.clip)
        policy = -jnp.mean(jnp.minimum(ratio * gain, clipped * gain))
        value = network(nets["critic"], part["features"])[..., 0]
        return policy + 0.25 * jnp.mean((value - part["target"]) ** 2)

    def advantages(value: Any, batch: Any) -> Any:
        delta = batch["reward"] + config.discount * batch["bootstrap"] - value
        carry_on = config.discount * config.gae * (1.0 - batch["ended"])

        def back(following: Any, row: Any) -> Any:
            now = row[0] + row[1] * following
            return now, now

        return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, carry_on), reverse=True)[1]

    @jax.jit
    def update(nets: Any, leaves: Any, batch: Any, order: Any, rate: Any) -> Any:
        value = network(nets["critic"], batch["features"])[..., 0]
        advantage = advantages(value, batch)
        data = {
            "features": batch["features"],
            "action": batch["action"],
            "log_prob": log_prob(nets["actor"], batch["features"], batch["action"]),
            "advantage": advantage,
            "target": advantage + value,
        }
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in data.items()}
        state = jax.tree.unflatten(jax.tree.structure(chain.init(nets)), leaves)
        rows = order.reshape(config.epochs * config.minibatches, -1)

        def one(carry: Any, index: Any) -> Any:
            nets, state = carry
            grads = jax.grad(loss)(nets, {name: x[index] for name, x in flat.items()})
            steps, state = chain.update(grads, state)
            return (optax.apply_updates(nets, jax.tree.map(lambda s: -rate * s, steps)), state), None

        (nets, state), _ = jax.lax.scan(one, (nets, state), rows)
        return nets, jax.tree.leaves(state)

    return update


# ---- a state as named arrays, for resuming


def pack(state: PPOState) -> dict[str, np.ndarray]:
    """The state as named arrays."""
    arrays = {f"actor.{k}": x for k, x in state.actor.items()} | {
        f"critic.{k}": x for k, x in state.critic.items()
    }
    arrays |= {f"optimizer.{k:03d}": x for k, x in enumerate(state.optimizer)}
    for name in ("observations", "rewards"):
        moments = getattr(state, name)
        arrays |= {f"{name}.mean": moments.mean, f"{name}.var": moments.var}
        arrays[f"{name}.count"] = np.array(moments.count)
    for name in ("observation", "age", "episode_return", "discounted"):
        arrays[name] = getattr(state, name)
    arrays |= {"simulated.physics": state.simulated.physics, "simulated.xy": state.simulated.xy}
    return arrays | {"iteration": np.array(state.iteration)}


def unpack(arrays: dict[str, np.ndarray]) -> PPOState:
    """The inverse of `pack`."""

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix + "."): x for k, x in arrays.items() if k.startswith(prefix + ".")}

    def moments(name: str) -> Moments:
        parts = group(name)
        return Moments(parts["mean"], parts["var"], float(parts["count"]))

    optimizer = group("optimizer")
    return PPOState(
        actor=group("actor"),
        critic=group("critic"),
        optimizer=[optimizer[key] for key in sorted(optimizer)],
        observations=moments("observations"),
        rewards=moments("rewards"),
        simulated=State(**group("simulated")),
        observation=arrays["observation"],
        age=arrays["age"],
        episode_return=arrays["episode_return"],
        discounted=arrays["discounted"],
        iteration=int(arrays["iteration"]),
    )
