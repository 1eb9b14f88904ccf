"""Training of populations: log-probs against direct sums, P members = P trainings, the library's losses unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.suite.data.bank import Bank
from prefopt.suite.data.variants import Pairs
from prefopt.suite.inner import traced_loss
from prefopt.suite.inner import training as I
from prefopt.suite.inner.heldout import Signals, held_out_signals
from prefopt.suite.inner.methods import METHODS
from prefopt.suite.simulator.policy import init_policy, log_prob, normalise

OBSERVATIONS, ACTIONS, TRAJECTORIES = 4, 2, 24
TOY = I.InnerConfig(updates=6, pairs=4, steps_drawn=5)


@pytest.fixture(scope="module")
def reference():
    params = init_policy(np.random.default_rng(0), OBSERVATIONS, ACTIONS, hidden=6)
    params["obs_mean"] += 0.3
    return params


@pytest.fixture(scope="module")
def bank(reference):
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 12, TRAJECTORIES)
    steps = int(lengths.sum())
    observations = rng.standard_normal((steps, OBSERVATIONS)).astype(np.float32)
    actions = rng.standard_normal((steps, ACTIONS)).astype(np.float32)
    ref_logps = log_prob(reference, normalise(reference, observations), actions)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    returns = rng.uniform(0, 1, TRAJECTORIES)
    return Bank(observations, actions, ref_logps, offsets, lengths, returns, references=2)


def member(loss, rows=8, rate=1e-2, seed=0, weights=None):
    winner, loser = np.arange(rows), np.arange(rows) + 12
    return I.Member(loss, rate, winner, loser, np.ones(rows) if weights is None else weights, seed)


def params_differ(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def test_log_prob_of_a_trajectory_is_the_direct_sum(bank, reference):
    other = init_policy(np.random.default_rng(5), OBSERVATIONS, ACTIONS, hidden=6)
    other |= {name: reference[name] for name in ("obs_mean", "obs_std")}
    arrays, index = I.device_bank(bank, reference), jnp.array([3, 7, 20])
    policy, ref, tokens = I.trajectory_logps(other, arrays, index, jax.random.key(0), 0)
    for row, k in enumerate(index.tolist()):
        part = slice(bank.offsets[k], bank.offsets[k] + bank.lengths[k])
        direct = log_prob(other, normalise(reference, bank.observations[part]), bank.actions[part]).sum()
        assert float(policy[row]) == pytest.approx(float(direct), rel=1e-5)
        assert float(ref[row]) == pytest.approx(float(bank.ref_sums()[k]), rel=1e-5)
        assert float(tokens[row]) == bank.lengths[k] * ACTIONS


def test_drawn_steps_estimate_the_sum_without_bias(bank, reference):
    arrays, index = I.device_bank(bank, reference), jnp.array([3, 7, 20])
    draws = jax.vmap(lambda key: I.trajectory_logps(reference, arrays, index, key, 4)[0])(
        jax.random.split(jax.random.key(1), 4000)
    )
    error = np.std(draws, axis=0) / np.sqrt(4000)
    assert (np.abs(np.mean(draws, axis=0) - bank.ref_sums()[np.asarray(index)]) < 4 * error + 1e-3).all()


def test_policy_and_reference_agree_at_the_start(bank, reference):
    out = I.train_population(bank, reference, [member({"name": "dpo"}, rate=0.0)], TOY)
    np.testing.assert_allclose(out.history[0, :, 0], np.log(2.0), rtol=1e-5)
    assert params_differ({k: x[0] for k, x in out.final().items()}, reference) == 0.0


def test_a_population_is_its_separate_trainings(bank, reference):
    specs = [{"name": "dpo", "beta": 0.1}, {"name": "dpo", "beta": 0.5}]
    members = [
        member(spec, rate=rate, seed=seed)
        for seed, (spec, rate) in enumerate(zip(specs, (1e-2, 3e-3), strict=True))
    ]
    together = I.train_population(bank, reference, members, TOY)
    batched = I.train_population(bank, reference, members, TOY.model_copy(update={"batching": "vmap"}))
    for k, one in enumerate(members):
        alone = I.train_population(bank, reference, [one], TOY)
        for name, x in alone.policies.items():
            np.testing.assert_allclose(together.policies[name][k], x[0], rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(batched.policies[name][k], x[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(together.history[k], alone.history[0], rtol=1e-5, atol=1e-5)
    assert (
        params_differ(
            {k: x[0, 0] for k, x in together.policies.items()},
            {k: x[1, 0] for k, x in together.policies.items()},
        )
        > 1e-4
    )


@pytest.mark.parametrize(
    "name", [name for name, m in METHODS.items() if m.selection is None and m.weights is None]
)
def test_the_traced_loss_is_the_librarys(name):
    """Value and slope of every loss of the bench, with numbers put in from outside, equal LossSum's own."""
    method = METHODS[name]
    loss = build_loss(method.terms(method.candidates()[1]))
    other = build_loss(method.terms(method.candidates()[0]))
    rng = np.random.default_rng(0)
    inputs = {
        n: jnp.asarray(rng.uniform(-60, -20, 6), jnp.float32)
        for n in traced_loss.GIVEN
        if n not in ("label", "kl", "progress")
    }
    inputs |= {n: jnp.full(6, 20.0) for n in ("chosen_tokens", "rejected_tokens", "tokens")}
    inputs |= {"label": jnp.arange(6) < 3, "kl": jnp.float32(0.5), "progress": 0.5}
    structure, numbers = traced_loss.split_loss(loss)
    assert structure == traced_loss.split_loss(other)[0]
    moved = "completion" if loss.kind == "unpaired" else "chosen"

    def total(value, x):
        return jnp.sum(value({**inputs, moved: x}))

    ours = jax.jit(jax.value_and_grad(lambda x, n: total(traced_loss.loss_with(other, n), x)))(
        inputs[moved], numbers
    )
    theirs = jax.value_and_grad(lambda x: total(loss, x))(inputs[moved])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-7)


def test_weight_zero_is_absence_and_weights_scale_gradients(bank, reference):
    whole = I.InnerConfig(updates=1, pairs=4, steps_drawn=0, max_grad_norm=1e9)
    weights = np.array([1.0, 0.0, 2.0, 1.0])
    one = member({"name": "dpo"}, rows=4, weights=weights)
    arrays = I.device_bank(bank, reference)
    start = {k: jnp.asarray(x) for k, x in reference.items() if not k.startswith("obs_")}
    loss = build_loss("dpo")

    def gradient(rows, weights, scale):
        def f(params):
            inputs = I.pair_inputs(
                params, arrays, one.winner[rows], one.loser[rows], jax.random.key(0), whole
            )
            return scale * I.weighted_mean(loss, loss, inputs, jnp.asarray(weights))

        return jax.jit(jax.grad(f))(start)

    left, right = gradient(np.arange(4), weights, 1.0), gradient(np.array([0, 2, 2, 3]), np.ones(4), 1.0)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-4, atol=1e-6)


def test_unpaired_losses_see_both_answers_with_their_weights(bank, reference):
    loss = build_loss({"name": "kto", "beta": 0.1})
    rng = np.random.default_rng(0)
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
    inputs = {n: jnp.asarray(rng.uniform(-9, -1, 3), jnp.float32) for n in names}
    inputs |= {"chosen_tokens": jnp.ones(3), "rejected_tokens": jnp.ones(3)}
    weights = np.array([1.0, 0.5, 1.5])
    r_w, r_l = (np.asarray(inputs[a]) - np.asarray(inputs["ref_" + a]) for a in ("chosen", "rejected"))
    kl = max(0.0, float(np.mean([*r_w, *r_l])))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = np.mean([*(weights * sigmoid(-0.1 * (r_w - kl))), *(weights * sigmoid(0.1 * (r_l - kl)))])
    assert float(I.weighted_mean(loss, loss, inputs, jnp.asarray(weights))) == pytest.approx(
        expected, rel=1e-5
    )


def test_training_prefers_the_winners_and_is_a_function_of_the_seed(bank, reference):
    config = I.InnerConfig(updates=60, pairs=8, steps_drawn=0, snapshots=4)
    out = I.train_population(
        bank, reference, [member({"name": "dpo", "beta": 0.5}, seed=s) for s in (0, 0, 1)], config
    )
    assert out.policies["w0"].shape[:2] == (3, 4)
    assert out.history[0, -5:, 1].mean() > 0.9 > out.history[0, 0, 1] + 0.1
    for x in out.policies.values():
        np.testing.assert_array_equal(x[0], x[1])
    assert not np.array_equal(out.policies["w0"][0], out.policies["w0"][2])


def test_losses_that_trajectories_cannot_serve_are_told(bank, reference):
    for spec, message in (("ld_dpo", "chosen_prefix"), ("wpo", "wpo_weight"), ("aot", "sort")):
        with pytest.raises(PrefoptError, match=message):
            I.train_population(bank, reference, [member(spec)], TOY)
    with pytest.raises(PrefoptError, match="did you mean 'dpo'"):
        I.train_population(bank, reference, [member("dpoo")], TOY)


def test_workers_change_nothing(bank, reference):
    members = [member({"name": "dpo", "beta": 0.1}, seed=seed) for seed in range(3)]
    one, three = (I.train_population(bank, reference, members, TOY, workers=n) for n in (1, 3))
    assert one.history.tobytes() == three.history.tobytes()
    assert params_differ(one.final(), three.final()) == 0


def test_a_stopped_training_is_the_beginning_of_the_whole_one(bank, reference):
    config = I.InnerConfig(updates=6, pairs=4, steps_drawn=5, snapshots=3)
    whole = I.train_population(bank, reference, [member({"name": "dpo", "beta": 0.5})], config)
    one = member({"name": "dpo", "beta": 0.5})
    stopped = I.train_population(bank, reference, [dataclasses.replace(one, stop=4)], config)
    for name, x in stopped.final().items():
        assert x[0].tobytes() == whole.policies[name][0, 1].tobytes()
    assert np.isfinite(stopped.history[0, :4]).all()


def test_held_out_signals_are_accuracy_and_loss_of_the_snapshots(bank, reference):
    config = I.InnerConfig(updates=40, pairs=8, steps_drawn=0, snapshots=4)
    one = member({"name": "dpo", "beta": 0.5})
    trained = I.train_population(bank, reference, [one], config)
    snapshots = {name: x[0] for name, x in trained.policies.items()}
    pairs = Pairs(one.winner, one.loser, one.winner, np.zeros(8, bool))
    seen = held_out_signals(bank, reference, one.loss, snapshots, pairs, config)
    arrays = I.device_bank(bank, reference)
    for k in range(4):  # by hand, every step of every trajectory
        policy = {name: x[k] for name, x in snapshots.items()}
        inputs = I.pair_inputs(policy, arrays, one.winner, one.loser, jax.random.key(0), config)
        h = inputs["chosen"] - inputs["ref_chosen"] - inputs["rejected"] + inputs["ref_rejected"]
        assert seen.loss[k] == pytest.approx(float(np.mean(np.logaddexp(0, -0.5 * np.asarray(h)))), rel=1e-4)
        ratio_w, ratio_l = (inputs[n] - inputs[f"ref_{n}"] for n in ("chosen", "rejected"))
        assert seen.accuracy[k] == pytest.approx(float(np.mean(np.asarray(ratio_w > ratio_l))))
    assert seen.stop() == int(np.argmin(seen.loss))
    assert Signals(np.array([np.nan, 3.0, 2.0, 2.0]), np.zeros(4)).stop() == 2
