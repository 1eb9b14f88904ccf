"""Policy, episodes and PPO: values against plain formulas, purity, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("jax")

from typer.testing import CliRunner

from prefopt.core.errors import PrefoptError
from prefopt.suite.agents import lineages
from prefopt.suite.agents.agents import AgentsConfig, agents, make_simulator, train
from prefopt.suite.agents.ppo import Moments, PPOConfig, init, iterate, pack, unpack
from prefopt.suite.bench.settings import bench_config
from prefopt.suite.commands import suite_app
from prefopt.suite.simulator import policy as P
from prefopt.suite.simulator.episodes import evaluate, run_episodes
from prefopt.suite.store import load_arrays

TOY = PPOConfig(steps=192, environments=4, horizon=16, epochs=2, minibatches=4, hidden=8, checkpoint_every=1)


@pytest.fixture(scope="module")
def simulator():
    with make_simulator(AgentsConfig(), threads=1) as simulator:
        yield simulator


def random_policy(seed, observations=11, actions=3, hidden=8):
    rng = np.random.default_rng(seed)
    params = P.init_policy(rng, observations, actions, hidden)
    params["w2"] = rng.standard_normal(params["w2"].shape).astype(np.float32)
    params["log_std"] = rng.uniform(-1, 0, actions).astype(np.float32)
    return params


def test_log_prob_is_the_sum_of_cell_probabilities():
    scipy_stats = pytest.importorskip("scipy.stats")
    params, rng = random_policy(0), np.random.default_rng(1)
    x, a = rng.standard_normal((5, 11)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32)
    density = scipy_stats.norm.logpdf(a, P.network(params, x), np.exp(params["log_std"]))
    np.testing.assert_allclose(P.log_prob(params, x, a), (density + np.log(P.CELL)).sum(axis=1), rtol=1e-5)


def test_log_prob_stays_below_zero_at_the_floor():
    params = random_policy(0) | {"log_std": np.full(3, -9.0, np.float32)}
    x = np.zeros((1, 11), np.float32)
    peak = P.log_prob(params, x, P.network(params, x))
    assert peak[0] == pytest.approx(3 * -0.2257, abs=1e-3)


def test_stacked_policies_act_as_single_ones():
    each, rng = [random_policy(k) for k in range(3)], np.random.default_rng(2)
    observation, noise = rng.standard_normal((3, 4, 11)), rng.standard_normal((3, 4, 3)).astype(np.float32)
    together = P.act(P.stack(each), observation, noise)
    for k in range(3):
        np.testing.assert_allclose(
            together[k], P.act(each[k], observation[k], noise[k]), rtol=1e-5, atol=1e-6
        )
    for one, back in zip(each, P.unstack(P.stack(each)), strict=True):
        assert all(np.array_equal(one[name], back[name]) for name in one)


def test_finished_episodes_leave_and_nothing_else_changes(simulator):
    """Members evaluated together return what each returns alone, and returns are sums of the steps' rewards."""
    each = [random_policy(k) for k in range(3)]
    together = evaluate(simulator, P.stack(each), 4, seed=7)
    alone = np.concatenate([evaluate(simulator, P.stack([p]), 4, seed=7) for p in each])
    own_seeds = evaluate(simulator, P.stack(each[:2]), 4, seed=[7, 8])
    np.testing.assert_allclose(own_seeds[0], together[0], rtol=1e-6)
    np.testing.assert_allclose(own_seeds[1], evaluate(simulator, P.stack(each[1:2]), 4, seed=8)[0], rtol=1e-6)
    small_blocks = evaluate(simulator, P.stack(each), 4, seed=7, block=4)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(together, small_blocks, rtol=1e-6)


def test_recorded_episodes_replay(simulator):
    start = simulator.reset(3, np.random.default_rng(0))
    run = run_episodes(
        simulator, P.stack([random_policy(0)]), start, [np.random.default_rng(1)], record=True, max_steps=40
    )
    assert len(set(run.lengths[0].tolist())) > 1 or run.lengths.max() < 40
    for row in range(3):
        state, total = start.take([row]), 0.0
        for t in range(run.lengths[0, row]):
            step = simulator.step(state, np.clip(run.actions[0, row, t][None], -1, 1))
            state, total = step.state, total + step.reward[0]
        assert total == pytest.approx(run.returns[0, row], rel=1e-6)
        assert not run.observations[0, row, run.lengths[0, row] :].any()


def test_moments_are_those_of_all_rows():
    x = np.random.default_rng(0).standard_normal((30, 2)) * 3 + 1
    moments = Moments(np.zeros(2), np.ones(2), 0.0)
    for part in np.split(x, [4, 5, 17]):
        moments = moments.update(part)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0))
    np.testing.assert_allclose(moments.var, x.var(axis=0))


def test_ppo_is_a_function_of_the_seed_and_of_its_state(simulator):
    state = init(simulator, TOY, seed=1)
    once, again = iterate(simulator, TOY, 1, state)[0], iterate(simulator, TOY, 1, unpack(pack(state)))[0]
    other = iterate(simulator, TOY, 2, state)[0]
    for name, x in pack(once).items():
        np.testing.assert_array_equal(x, pack(again)[name])
    assert not np.array_equal(once.actor["w0"], other.actor["w0"])
    assert not np.array_equal(once.actor["w0"], state.actor["w0"])


def test_killed_training_gives_the_same_agents(tmp_path, simulator):
    config = AgentsConfig(ppo=TOY, evaluation_episodes=4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(simulator, config, whole)
    train(simulator, config, cut, stop=lambda iteration: iteration == 2)
    assert len(list(cut.glob("actor-*"))) == 2
    train(simulator, config, cut)
    for path in sorted(whole.glob("*.safetensors")):
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_agents_are_cached(tmp_path):
    config = AgentsConfig(ppo=TOY, evaluation_episodes=4)
    first = agents(config, tmp_path, threads=1)
    stamp = (first.folder / "done.json").stat().st_mtime_ns
    second = agents(config, tmp_path, threads=1)
    assert (second.folder / "done.json").stat().st_mtime_ns == stamp
    assert first.figures == second.figures
    assert first.figures["reference"]["steps"] < first.figures["expert"]["steps"]
    assert np.array_equal(second.expert["w0"], load_arrays(first.folder / "expert.safetensors")["w0"])
    assert agents(config.model_copy(update={"seed": 1}), tmp_path, threads=1).folder != first.folder


def test_three_legged_ants_reference_is_the_ordinary_ants_expert(tmp_path):
    result = CliRunner().invoke(
        suite_app,
        [
            *(
                "agents",
                "--env",
                "three_legged_ant",
                "--output",
                str(tmp_path),
                "--workers",
                "1",
                "--lineages",
                "0",
            ),
            *(
                "--agents.evaluation_episodes",
                "4",
                "--agents.ppo.steps",
                "192",
                "--agents.ppo.environments",
                "4",
            ),
            *("--agents.ppo.horizon", "16", "--agents.ppo.epochs", "2", "--agents.ppo.minibatches", "4"),
            *("--agents.ppo.hidden", "8", "--agents.ppo.checkpoint_every", "1"),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    (ordinary,) = tmp_path.glob("agents-ant-*")
    (constrained,) = tmp_path.glob("agents-three_legged_ant-*")
    reference = (constrained / "reference.safetensors").read_bytes()
    assert reference == (ordinary / "expert.safetensors").read_bytes()
    figures = [json.loads((folder / "done.json").read_text()) for folder in (ordinary, constrained)]
    assert figures[1]["reference"]["return_without"] == figures[0]["expert"]["return"]
    assert (
        figures[1]["reference"]["return"] < figures[0]["expert"]["return"]
    )  # the same policy pays for its leg


@pytest.mark.slow
def test_ppo_learns_to_hop(tmp_path):
    config = AgentsConfig(ppo=PPOConfig(steps=100_000), evaluation_episodes=16)
    figures = agents(config, tmp_path).figures
    assert figures["expert"]["return"] > 350
    assert 0.2 < figures["reference"]["return"] / figures["expert"]["return"] < 0.7


# ---- lineages that are shipped


def test_shipped_lineages_are_whole_and_serve_the_presets():
    """Every lineage of Hopper is there, with the hashes of its index, and is what the small preset asks for."""
    index = json.loads((lineages.SHIPPED / "hopper.json").read_text())
    own = lineages.roles("hopper")
    assert [row["seed"] for row in index["lineages"]] == [*own.tuning, *own.search, *own.reporting]
    for row in index["lineages"]:
        settings = bench_config("small", {}).of_lineage(row["seed"]).agents.model_dump(mode="json")
        policies, figures = lineages.shipped(settings)
        assert figures["expert"]["return"] > 1.5 * figures["reference"]["return"] > 0
        assert all(policy["w0"].shape == (11, 64) for policy in policies)


def test_agents_come_from_the_package_unless_trained_here_or_asked_anew(tmp_path):
    config = AgentsConfig(seed=1)
    found = agents(config, tmp_path)
    assert found.shipped
    assert not list(tmp_path.glob("agents-*/*.safetensors"))
    other = agents(AgentsConfig(seed=2), tmp_path)
    assert found.identity() != other.identity()


def test_a_damaged_shipped_policy_is_told(tmp_path):
    settings = AgentsConfig(seed=7).model_dump(mode="json")
    policies = {name: random_policy(k) for k, name in enumerate(lineages.NAMES)}
    lineages.ship(settings, {"mode": "stochastic"}, policies, tmp_path)
    (reference, _), figures = lineages.shipped(settings, tmp_path)
    np.testing.assert_array_equal(reference["w0"], policies["reference"]["w0"])
    assert figures == {"mode": "stochastic"}
    assert lineages.shipped(settings | {"seed": 8}, tmp_path) is None
    path = tmp_path / "hopper-07-expert.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PrefoptError, match="SHA-256 differs"):
        lineages.shipped(settings, tmp_path)
