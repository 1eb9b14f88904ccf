"""Many copies of one environment, stepped together: states in, states out, nothing hidden.

N environments, A actions, O observations. Three backends: `rollout` (mujoco.rollout on threads; the fastest, solver warm-start
is not carried over steps) and `pool` (a thread pool over mj_step and mj_rnePostConstraint; equal to Gymnasium bit for bit
and with contact forces, which mujoco.rollout does not return), `mjx` (MuJoCo's JAX engine, for GPUs; suite/mjx.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError
from prefopt.suite.simulator.environments import INTEGRATORS, Array, Environment, Physics

if TYPE_CHECKING:
    import mujoco

BACKENDS = ("rollout", "pool", "mjx")


@dataclass(frozen=True)
class State:
    """All that a step needs: physics [N, S] as MuJoCo packs it, xy [N, 2] of the main body."""

    physics: Array
    xy: Array

    def take(self, index: Any) -> State:
        """The states at these indices (or under this mask)."""
        return State(self.physics[index], self.xy[index])

    def put(self, index: Any, other: State) -> State:
        """A copy in which `other` stands at these indices."""
        physics, xy = self.physics.copy(), self.xy.copy()
        physics[index], xy[index] = other.physics, other.xy
        return State(physics, xy)


class Step(NamedTuple):
    """Result of a step: state, observation [N, O], reward [N], terminated [N]."""

    state: State
    observation: Array
    reward: Array
    terminated: NDArray[np.bool_]


def load_mujoco() -> Any:
    """The mujoco module. Raises PrefoptError where it is not installed."""
    try:
        import mujoco
    except ImportError as error:
        raise PrefoptError(
            f"the suite needs MuJoCo ({error}); install it with: pip install 'prefopt[suite]'"
        ) from None
    return mujoco


class Simulator:
    """Steps N environments with `threads` threads (default: the machine's cores). Holds no state of an environment."""

    def __init__(
        self,
        environment: Environment,
        *,
        threads: int | None = None,
        backend: str | None = None,
        integrator: str = "rk4",
    ) -> None:
        self.mujoco = load_mujoco()
        if integrator not in INTEGRATORS:
            raise PrefoptError(f"suite: integrator {integrator!r} must be one of {', '.join(INTEGRATORS)}")
        self.environment = environment
        self.threads = threads or len(os.sched_getaffinity(0))
        self.backend = backend or environment.backend
        self.model = load_model(environment, integrator)
        self.datas = [self.mujoco.MjData(self.model) for _ in range(self.threads)]
        self._executor: ThreadPoolExecutor | None = None
        self._rollout: Any = None
        self._simulate: Callable[[State, Array], tuple[State, Physics]]
        kinds = self.mujoco.mjtState
        if self.backend == "rollout":
            if environment.observe.__name__ == "ant_observe":
                raise PrefoptError("suite: mujoco.rollout gives no contact forces; Ant needs backend 'pool'")
            from mujoco.rollout import Rollout

            self.spec = int(kinds.mjSTATE_FULLPHYSICS)
            self._rollout = Rollout(nthread=self.threads if self.threads > 1 else 0)
            self._simulate = self._simulate_rollout
        elif self.backend == "pool":
            self.spec = int(kinds.mjSTATE_FULLPHYSICS) | int(kinds.mjSTATE_WARMSTART)
            self._simulate = self._simulate_pool
            self._executor = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        elif self.backend == "mjx":
            from prefopt.suite.simulator.mjx import MjxStepper

            self.spec = int(kinds.mjSTATE_FULLPHYSICS)
            self._mjx = MjxStepper(self.model, environment)
            self._simulate = self._simulate_mjx
        else:
            raise PrefoptError(f"suite: backend {self.backend!r} must be {', '.join(BACKENDS)}")
        self.size = int(self.mujoco.mj_stateSize(self.model, self.spec))

    def close(self) -> None:
        """Ends the threads."""
        if self._executor is not None:
            self._executor.shutdown()
        if self._rollout is not None:
            self._rollout.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- states

    def state_of(self, qpos: Array, qvel: Array) -> State:
        """States [N] at positions [N, nq] and velocities [N, nv], as after Gymnasium's `set_state`."""
        states = np.empty((len(qpos), self.size))
        xy = np.empty((len(qpos), 2))
        data = self.datas[0]
        for row in range(len(qpos)):
            self.mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = qpos[row], qvel[row]
            self.mujoco.mj_forward(self.model, data)
            self.mujoco.mj_getState(self.model, data, states[row], self.spec)
            xy[row] = data.xpos[1, :2]
        return State(states, xy if self.environment.body_position else qpos[:, :2].copy())

    def reset(self, count: int, rng: np.random.Generator) -> State:
        """`count` start states with Gymnasium's reset noise."""
        env, model = self.environment, self.model
        noise = env.reset_noise
        qpos = model.qpos0 + rng.uniform(-noise, noise, (count, model.nq))
        if env.normal_velocity:
            qvel = noise * rng.standard_normal((count, model.nv))
        else:
            qvel = rng.uniform(-noise, noise, (count, model.nv))
        return self.state_of(qpos, qvel)

    def observe(self, state: State) -> Array:
        """Observations [N, O] of start states (no contact forces act yet, as in Gymnasium)."""
        return self.environment.observe(self._physics(state, None))

    def _physics(self, state: State, contact: Array | None) -> Physics:
        nq, nv = self.model.nq, self.model.nv
        qpos, qvel = state.physics[:, 1 : 1 + nq], state.physics[:, 1 + nq : 1 + nq + nv]
        if contact is None:
            wide = (self.model.nbody - 1) * 6 if self.backend != "rollout" else 0
            contact = np.zeros((len(qpos), wide))
        return Physics(qpos, qvel, state.xy, contact)

    # ---- steps

    def step(self, state: State, action: Array) -> Step:
        """One step of every environment. Actions [N, A] count as given in the reward; the motors clip them to [-1, 1]."""
        env = self.environment
        action = env.applied(np.asarray(action, dtype=np.float64))
        after, physics = self._simulate(state, action)
        x_velocity = (after.xy[:, 0] - state.xy[:, 0]) / env.step_s
        reward = env.total_reward(x_velocity, physics, action)
        return Step(after, env.observe(physics), reward, ~env.healthy(physics))

    def _simulate_rollout(self, state: State, action: Array) -> tuple[State, Physics]:
        steps = self.environment.frame_skip
        control = np.repeat(action[:, None], steps, axis=1)
        out, _ = self._rollout.rollout(
            [self.model] * len(action), self.datas, state.physics, control, nstep=steps, skip_checks=False
        )
        last = out[:, -1]
        after = State(last, last[:, 1:3])
        return after, self._physics(after, None)

    def _simulate_pool(self, state: State, action: Array) -> tuple[State, Physics]:
        count = len(action)
        states, xy = np.empty((count, self.size)), np.empty((count, 2))
        contact = np.empty((count, (self.model.nbody - 1) * 6))
        out = (states, xy, contact)
        bounds = np.linspace(0, count, self.threads + 1).astype(int)
        jobs = [
            (d, state, action, out, a, b) for d, a, b in zip(self.datas, bounds, bounds[1:], strict=False)
        ]
        if self._executor is None:
            self._work(*jobs[0])
        else:
            list(self._executor.map(lambda job: self._work(*job), jobs))
        after = State(states, xy if self.environment.body_position else states[:, 1:3])
        return after, self._physics(after, np.clip(contact, -1.0, 1.0))

    def _simulate_mjx(self, state: State, action: Array) -> tuple[State, Physics]:
        before = self._physics(state, None)
        qpos, qvel, xy, contact = self._mjx(before.qpos, before.qvel, action)
        states = state.physics.copy()
        states[:, 0] += self.environment.step_s
        states[:, 1 : 1 + self.model.nq + self.model.nv] = np.concatenate([qpos, qvel], axis=1)
        after = State(states, xy)
        return after, self._physics(after, np.clip(contact, -1.0, 1.0))

    def _work(
        self, data: mujoco.MjData, state: State, action: Array, out: Any, start: int, stop: int
    ) -> None:
        """Environments start..stop on one MjData: it is set before each step and read after it."""
        mj, model, spec, skip = self.mujoco, self.model, self.spec, self.environment.frame_skip
        states, xy, contact = out
        control, position, force = data.ctrl, data.xpos[1], data.cfrc_ext.reshape(-1)[6:]
        for row in range(start, stop):
            mj.mj_setState(model, data, state.physics[row], spec)
            control[:] = action[row]
            mj.mj_step(model, data, skip)
            mj.mj_rnePostConstraint(model, data)
            mj.mj_getState(model, data, states[row], spec)
            xy[row] = position[:2]
            contact[row] = force


def load_model(environment: Environment, integrator: str = "rk4") -> Any:
    """The MjModel of an environment, with the integrator asked for."""
    mujoco = load_mujoco()
    model = mujoco.MjModel.from_xml_path(str(environment.path))
    kind = {"rk4": mujoco.mjtIntegrator.mjINT_RK4, "euler": mujoco.mjtIntegrator.mjINT_EULER}[integrator]
    model.opt.integrator = kind
    return model
