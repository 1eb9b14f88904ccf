"""Episodes of many policies in one batch; finished ones leave it, so that the last runner does not pay for the rest.

P policies, E episodes each. Noise is drawn for all episodes at every step: an episode's noise does not depend on which
others are still alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefopt.suite.simulator.environments import MAX_STEPS
from prefopt.suite.simulator.policy import Params, act
from prefopt.suite.simulator.simulator import Simulator, State

MODES = ("stochastic", "deterministic")


@dataclass(frozen=True)
class Episodes:
    """returns, lengths [P, E]; observations [P, E, T, O], actions [P, E, T, A] float32 (0 after the end), or None."""

    returns: np.ndarray
    lengths: np.ndarray
    observations: np.ndarray | None = None
    actions: np.ndarray | None = None


def run_episodes(
    simulator: Simulator,
    policies: Params,
    start: State,
    rngs: Sequence[np.random.Generator],
    *,
    mode: str = "stochastic",
    record: bool = False,
    max_steps: int = MAX_STEPS,
) -> Episodes:
    """One episode from every start state.

    policies: stacked, P of them; start: P * E states, those of a policy together; rngs: one generator of noise per policy,
    or a single one whose noise [E, A] all policies meet. Actions are clipped to [-1, 1] for the simulator and recorded
    unclipped.
    """
    env = simulator.environment
    members = len(policies["w0"])
    count = len(start.physics)
    each = count // members
    observation = simulator.observe(start).astype(np.float32)
    returns, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    seen = np.zeros((count, max_steps, env.observation_dims), np.float32) if record else None
    done = np.zeros((count, max_steps, env.action_dims), np.float32) if record else None
    alive, state = np.arange(count), start
    for step in range(max_steps):
        noise = None
        if mode == "stochastic":
            drawn = np.stack([rng.standard_normal((each, env.action_dims), np.float32) for rng in rngs])
            noise = np.broadcast_to(drawn, (members, each, env.action_dims))
        action = act(policies, observation.reshape(members, each, -1), noise).reshape(count, -1)[alive]
        if seen is not None and done is not None:
            seen[alive, step], done[alive, step] = observation[alive], action
        result = simulator.step(state, np.clip(action, -1.0, 1.0))
        returns[alive] += result.reward
        lengths[alive] += 1
        keep = ~result.terminated
        alive, state = alive[keep], result.state.take(keep)
        observation[alive] = result.observation[keep]
        if not len(alive):
            break
    shape = (members, each)
    return Episodes(
        returns.reshape(shape),
        lengths.reshape(shape),
        None if seen is None else seen.reshape(*shape, *seen.shape[1:]),
        None if done is None else done.reshape(*shape, *done.shape[1:]),
    )


def evaluate(
    simulator: Simulator,
    policies: Params,
    episodes: int,
    seed: int | Sequence[int],
    *,
    mode: str = "stochastic",
    block: int = 512,
) -> np.ndarray:
    """Returns [P, E] of fresh start states: the same start states and noise for all policies, or by one seed per policy.

    block: the most environments in one batch; it changes nothing in the result.
    """
    members = len(policies["w0"])
    seeds = [seed] * members if isinstance(seed, int) else list(seed)
    per_block = max(1, block // episodes)
    out = []
    for first in range(0, members, per_block):
        part = {name: x[first : first + per_block] for name, x in policies.items()}
        own = seeds[first : first + per_block]
        starts = [simulator.reset(episodes, np.random.default_rng([s, 0])) for s in own]
        start = State(*(np.concatenate([getattr(s, name) for s in starts]) for name in ("physics", "xy")))
        rngs = [np.random.default_rng([s, 1]) for s in own]
        out.append(run_episodes(simulator, part, start, rngs, mode=mode).returns)
    return np.concatenate(out)
