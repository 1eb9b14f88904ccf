"""Step by step against Gymnasium, and what the simulator promises of itself."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("mujoco")

from prefopt.core.errors import PrefoptError
from prefopt.suite.simulator.environments import ENVIRONMENTS, LEG_PENALTY, find_environment
from prefopt.suite.simulator.simulator import Simulator

GYM = {"hopper": "Hopper-v5"} | dict.fromkeys(("ant", "three_legged_ant", "masked_ant"), "Ant-v5")
LEG = [2, 3]


def gymnasium_run(name, steps):
    """Random actions in Gymnasium with resets: rows (start or None, before, action, observation, reward, ended).

    A masked leg's actions are 0 for Gymnasium; a penalised leg costs LEG_PENALTY per squared action.
    """
    gym = pytest.importorskip("gymnasium")
    env = gym.make(GYM[name]).unwrapped
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    start = (env.data.qpos.copy(), env.data.qvel.copy())
    for _ in range(steps):
        action = rng.uniform(-1.3, 1.3, env.model.nu)  # beyond the motors' range on purpose
        before = (env.data.qpos.copy(), env.data.qvel.copy())
        applied = action.copy()
        if name == "masked_ant":
            applied[LEG] = 0.0
        observation, reward, ended, _, _ = env.step(applied)
        if name == "three_legged_ant":
            reward -= LEG_PENALTY * np.sum(action[LEG] ** 2)
        yield start, before, action, observation, reward, ended
        start = None
        if ended:
            env.reset()
            start = (env.data.qpos.copy(), env.data.qvel.copy())
    env.close()


@pytest.mark.parametrize("name", sorted(GYM))
def test_equals_gymnasium_bit_for_bit_over_1000_random_steps(name):
    ends = 0
    with Simulator(ENVIRONMENTS[name], threads=1, backend="pool") as simulator:
        for start, _, action, observation, reward, ended in gymnasium_run(name, 1000):
            if start is not None:
                state = simulator.state_of(start[0][None], start[1][None])
            step = simulator.step(state, action[None])
            state = step.state
            np.testing.assert_array_equal(step.observation[0], observation)
            assert step.reward[0] == pytest.approx(reward, abs=1e-12)
            assert bool(step.terminated[0]) == bool(ended)
            ends += bool(ended)
    assert ends > 0 or "ant" in name  # random actions hardly ever topple an Ant


@pytest.mark.parametrize(("height", "ended"), [(0.75, False), (1.3, True)])
def test_ant_ends_outside_its_heights_as_gymnasiums(height, ended):
    gym = pytest.importorskip("gymnasium")
    env = gym.make("Ant-v5").unwrapped
    env.reset(seed=0)
    qpos, qvel = env.init_qpos.copy(), env.init_qvel.copy()
    qpos[2] = height
    env.set_state(qpos, qvel)
    _, reward, terminated, _, _ = env.step(np.zeros(8))
    with Simulator(ENVIRONMENTS["ant"], threads=1) as simulator:
        step = simulator.step(simulator.state_of(qpos[None], qvel[None]), np.zeros((1, 8)))
    assert bool(step.terminated[0]) == bool(terminated) == ended
    assert step.reward[0] == pytest.approx(reward, abs=1e-12)
    env.close()


def test_rollout_equals_gymnasium_to_the_solver_tolerance():
    """From the same state and action every step agrees; mujoco.rollout starts its solver cold, hence no bit equality."""
    rows = list(gymnasium_run("hopper", 1000))
    qpos, qvel = (np.stack([row[1][k] for row in rows]) for k in (0, 1))
    with Simulator(ENVIRONMENTS["hopper"], threads=1) as simulator:
        assert simulator.backend == "rollout"
        step = simulator.step(simulator.state_of(qpos, qvel), np.stack([row[2] for row in rows]))
    np.testing.assert_allclose(step.observation, np.stack([row[3] for row in rows]), atol=1e-6)
    np.testing.assert_allclose(step.reward, [row[4] for row in rows], atol=1e-6)
    np.testing.assert_array_equal(step.terminated, [row[5] for row in rows])


@pytest.mark.slow  # compiling takes most of a minute
@pytest.mark.parametrize(("name", "steps"), [("hopper", 5), ("ant", 2)])
def test_mjx_equals_the_pool_for_a_few_steps(name, steps):
    pytest.importorskip("mujoco.mjx", reason="mujoco-mjx is not installed")
    env, rng = ENVIRONMENTS[name], np.random.default_rng(0)
    with Simulator(env, threads=1, backend="pool") as pool, Simulator(env, backend="mjx") as mjx:
        one, two = (s.reset(3, np.random.default_rng(1)) for s in (pool, mjx))
        for _ in range(steps):
            action = rng.uniform(-1, 1, (3, env.action_dims))
            a, b = pool.step(one, action), mjx.step(two, action)
            np.testing.assert_allclose(b.observation, a.observation, atol=1e-4)
            np.testing.assert_allclose(b.reward, a.reward, atol=1e-4)
            np.testing.assert_array_equal(b.terminated, a.terminated)
            one, two = a.state, b.state


def test_missing_mjx_is_told(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    monkeypatch.delattr("mujoco.mjx", raising=False)
    with pytest.raises(PrefoptError, match="pip install mujoco-mjx"):
        Simulator(ENVIRONMENTS["hopper"], backend="mjx")


def test_rows_do_not_depend_on_each_other_or_on_threads():
    rng = np.random.default_rng(1)
    for name, backend in (("hopper", "rollout"), ("hopper", "pool"), ("ant", "pool")):
        env = ENVIRONMENTS[name]
        action = rng.uniform(-1, 1, (7, env.action_dims))
        with (
            Simulator(env, threads=1, backend=backend) as one,
            Simulator(env, threads=2, backend=backend) as two,
        ):
            state = one.reset(7, np.random.default_rng(5))
            whole = one.step(state, action)
            np.testing.assert_array_equal(whole.observation, two.step(state, action).observation)
            part = one.step(state.take([4]), action[[4]])
            np.testing.assert_array_equal(whole.observation[4], part.observation[0])


def test_three_legged_ant_pays_for_its_leg_and_the_masked_one_cannot_move_it():
    action = np.zeros((2, 8))
    action[0, [2, 3]] = [0.5, -0.25]
    steps = {}
    for name in ("ant", "three_legged_ant", "masked_ant"):
        with Simulator(ENVIRONMENTS[name], threads=1) as simulator:
            steps[name] = simulator.step(simulator.reset(2, np.random.default_rng(0)), action)
    paid = steps["ant"].reward - steps["three_legged_ant"].reward
    np.testing.assert_allclose(paid, [LEG_PENALTY * (0.25 + 0.0625), 0.0])
    np.testing.assert_array_equal(steps["ant"].observation, steps["three_legged_ant"].observation)
    assert not np.array_equal(steps["ant"].observation[0], steps["masked_ant"].observation[0])
    np.testing.assert_array_equal(steps["ant"].observation[1], steps["masked_ant"].observation[1])
    only_leg = np.zeros((1, 8))
    only_leg[0, [2, 3]] = 1.0
    with Simulator(ENVIRONMENTS["masked_ant"], threads=1) as simulator:
        state = simulator.reset(1, np.random.default_rng(0))
        with_leg, without = simulator.step(state, only_leg), simulator.step(state, np.zeros((1, 8)))
    np.testing.assert_array_equal(with_leg.observation, without.observation)
    np.testing.assert_array_equal(with_leg.reward, without.reward)


def test_euler_is_another_mdp():
    env = ENVIRONMENTS["hopper"]
    with Simulator(env, threads=1) as rk4, Simulator(env, threads=1, integrator="euler") as euler:
        state = rk4.reset(1, np.random.default_rng(0))
        a, b = (s.step(state, np.ones((1, 3))).observation for s in (rk4, euler))
    assert 1e-9 < np.abs(a - b).max() < 1.0


def test_bad_names_are_told():
    with pytest.raises(PrefoptError, match="did you mean 'hopper'"):
        find_environment("hoper")
    with pytest.raises(PrefoptError, match="integrator"):
        Simulator(ENVIRONMENTS["hopper"], integrator="rk5")
    with pytest.raises(PrefoptError, match="rollout, pool, mjx"):
        Simulator(ENVIRONMENTS["hopper"], backend="brax")
    with pytest.raises(PrefoptError, match="contact forces"):
        Simulator(ENVIRONMENTS["ant"], backend="rollout")
