"""Environments as plain functions of arrays: Hopper-v5, Ant-v5 and the three-legged Ant.

N environments; positions [N, nq], velocities [N, nv], actions [N, A]. Models, rewards, terminations and reset noise are
Gymnasium's Hopper-v5 and Ant-v5 (MIT licence; the two XML files in `assets/` are theirs, unchanged).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError, nearest

Array = NDArray[np.float64]
ASSETS = Path(__file__).parent / "assets"
MAX_STEPS = 1000  # Gymnasium's time limit of both environments
INTEGRATORS = ("rk4", "euler")  # rk4 is Gymnasium's; euler is 3-4x faster and another MDP


@dataclass(frozen=True)
class Physics:
    """What reward, termination and observation read after a step.

    qpos [N, nq], qvel [N, nv]; xy [N, 2] position of the main body as Gymnasium reads it; contact [N, bodies * 6] external
    forces on the bodies without the world, clipped to [-1, 1] (Ant; [N, 0] elsewhere).
    """

    qpos: Array
    qvel: Array
    xy: Array
    contact: Array


@dataclass(frozen=True)
class Environment:
    """One environment: its model file and three functions.

    observe(physics) -> [N, O]; healthy(physics) -> [N] bool; reward(x_velocity [N], physics, action [N, A], alive [N]) -> [N].
    normal_velocity: reset noise of velocities is normal, not uniform. body_position: the velocity is that of the main body's
    position as of the last inner step (Ant), not of the x coordinate (Hopper).
    backend: `rollout` (mujoco.rollout, fast) or `pool` (threads over mj_step, exact, gives contact forces).
    leg: the actuators of the leg that the three-legged Ant must not use; leg_penalty per squared action of it;
    leg_masked: its actions are set to 0 instead.
    pretrained_on: the environment whose expert is the reference here (a constraint put on a trained agent).
    """

    name: str
    model: str
    frame_skip: int
    timestep_s: float
    observation_dims: int
    action_dims: int
    observe: Callable[[Physics], Array]
    healthy: Callable[[Physics], NDArray[np.bool_]]
    reward: Callable[[Array, Physics, Array, NDArray[np.bool_]], Array]
    reset_noise: float
    normal_velocity: bool
    body_position: bool
    backend: str
    leg: tuple[int, ...] = field(default=())
    leg_penalty: float = 0.0
    leg_masked: bool = False
    pretrained_on: str = ""

    @property
    def path(self) -> Path:
        """The model file."""
        return ASSETS / self.model

    @property
    def step_s(self) -> float:
        """Simulated seconds per step of the agent."""
        return self.timestep_s * self.frame_skip

    def applied(self, action: Array) -> Array:
        """The action that reaches the simulator: the masked leg's torques are 0."""
        if not self.leg_masked:
            return action
        return np.where(np.isin(np.arange(action.shape[1]), self.leg), 0.0, action)

    def total_reward(self, x_velocity: Array, physics: Physics, action: Array) -> Array:
        """Gymnasium's reward [N], less the leg's penalty."""
        reward = self.reward(x_velocity, physics, action, self.healthy(physics))
        if self.leg_penalty and not self.leg_masked:
            reward = reward - self.leg_penalty * np.sum(action[:, list(self.leg)] ** 2, axis=1)
        return reward


# ---- Hopper-v5


def hopper_observe(physics: Physics) -> Array:
    """Positions without x, velocities clipped to +-10, [N, 11]."""
    return np.concatenate([physics.qpos[:, 1:], np.clip(physics.qvel, -10.0, 10.0)], axis=1)


def hopper_healthy(physics: Physics) -> NDArray[np.bool_]:
    """Height above 0.7, angle within 0.2, every other coordinate within 100."""
    state = np.concatenate([physics.qpos[:, 2:], physics.qvel], axis=1)
    inside = np.all((state > -100.0) & (state < 100.0), axis=1)
    return inside & (physics.qpos[:, 1] > 0.7) & (np.abs(physics.qpos[:, 2]) < 0.2)


def hopper_reward(x_velocity: Array, physics: Physics, action: Array, alive: NDArray[np.bool_]) -> Array:
    """x velocity + 1 while healthy - 1e-3 |a|^2."""
    return x_velocity + alive - 1e-3 * np.sum(action**2, axis=1)


# ---- Ant-v5


def ant_observe(physics: Physics) -> Array:
    """Positions without x and y, velocities, clipped contact forces, [N, 105]."""
    return np.concatenate([physics.qpos[:, 2:], physics.qvel, physics.contact], axis=1)


def ant_healthy(physics: Physics) -> NDArray[np.bool_]:
    """All finite and height within [0.2, 1]."""
    state = np.concatenate([physics.qpos, physics.qvel], axis=1)
    height = physics.qpos[:, 2]
    return np.all(np.isfinite(state), axis=1) & (height >= 0.2) & (height <= 1.0)


def ant_reward(x_velocity: Array, physics: Physics, action: Array, alive: NDArray[np.bool_]) -> Array:
    """x velocity + 1 while healthy - 0.5 |a|^2 - 5e-4 |contact|^2."""
    cost = 0.5 * np.sum(action**2, axis=1) + 5e-4 * np.sum(physics.contact**2, axis=1)
    return x_velocity + alive - cost


HOPPER = Environment(
    name="hopper",
    model="hopper.xml",
    frame_skip=4,
    timestep_s=0.002,
    observation_dims=11,
    action_dims=3,
    observe=hopper_observe,
    healthy=hopper_healthy,
    reward=hopper_reward,
    reset_noise=5e-3,
    normal_velocity=False,
    body_position=False,
    backend="rollout",
)


def _ant(name: str, leg_penalty: float = 0.0, leg_masked: bool = False) -> Environment:
    return Environment(
        name=name,
        model="ant.xml",
        frame_skip=5,
        timestep_s=0.01,
        observation_dims=105,
        action_dims=8,
        observe=ant_observe,
        healthy=ant_healthy,
        reward=ant_reward,
        reset_noise=0.1,
        normal_velocity=True,
        body_position=True,
        backend="pool",
        leg=(2, 3),  # hip_1 and ankle_1, the front left leg
        leg_penalty=leg_penalty,
        leg_masked=leg_masked,
        pretrained_on="" if name == "ant" else "ant",
    )


# Meant to take an ordinary Ant agent below half of its return: with |a| of .5 on two motors it pays 2 of the 3-5 reward of a
# step, while walking on three legs costs nothing. Measured on a weak agent alone: 480 -> 204 (docs/suite.md).
LEG_PENALTY = 4.0
ENVIRONMENTS: dict[str, Environment] = {
    "hopper": HOPPER,
    "ant": _ant("ant"),
    "three_legged_ant": _ant("three_legged_ant", leg_penalty=LEG_PENALTY),
    "masked_ant": _ant("masked_ant", leg_masked=True),
}


def find_environment(name: str) -> Environment:
    """The environment of this name; PrefoptError names the nearest known one."""
    if name not in ENVIRONMENTS:
        raise PrefoptError(f"unknown environment {name!r}, {nearest(name, ENVIRONMENTS)}")
    return ENVIRONMENTS[name]
