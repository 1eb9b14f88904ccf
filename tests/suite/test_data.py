"""Variants have the properties they claim; data methods are the pipeline's rules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.rules.selection import quotas
from prefopt.suite.data.bank import Bank
from prefopt.suite.data.variants import figures, held_out_pairs, make_pairs, parse_variant
from prefopt.suite.inner.methods import METHODS, Method, Selection, find_method, prepare, select

STARTS, REFERENCES, ROWS = 200, 3, 160


@pytest.fixture(scope="module")
def bank():
    """Made-up trajectories: experts return 900..1100, references 300..500, lengths 2..9."""
    rng = np.random.default_rng(0)
    count = STARTS * (1 + REFERENCES)
    lengths = rng.integers(2, 10, count)
    returns = rng.uniform(300, 500, count)
    returns[:: 1 + REFERENCES] = rng.uniform(900, 1100, STARTS)
    steps = int(lengths.sum())
    return Bank(
        observations=rng.standard_normal((steps, 5)).astype(np.float32),
        actions=rng.standard_normal((steps, 2)).astype(np.float32),
        ref_logps=rng.uniform(-5, -1, steps).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
        returns=returns,
        references=REFERENCES,
    )


def pairs_of(bank, text, seed=0, rows=ROWS):
    return make_pairs(bank, parse_variant(text), rows, seed)


def is_expert(trajectory):
    return trajectory % (1 + REFERENCES) == 0


def test_base_pairs_expert_and_reference_of_one_start_state(bank):
    pairs = pairs_of(bank, "base")
    assert len(set(pairs.start)) == ROWS
    assert is_expert(pairs.winner).all()
    assert not is_expert(pairs.loser).any()
    np.testing.assert_array_equal(pairs.winner // (1 + REFERENCES), pairs.start)
    np.testing.assert_array_equal(pairs.loser // (1 + REFERENCES), pairs.start)
    assert figures(bank, pairs)["flip_rate"] == 0
    assert 400 < figures(bank, pairs)["return_gap"] < 800


@pytest.mark.parametrize("p", [0.1, 0.2, 0.3])
def test_noise_is_exact_and_flips_labels_only(bank, p):
    base, noisy = pairs_of(bank, "base"), pairs_of(bank, f"noisy:{p}")
    assert figures(bank, noisy)["flip_rate"] == pytest.approx(p, abs=0.5 / ROWS)
    assert figures(bank, noisy)["absolute_return_gap"] == figures(bank, base)["absolute_return_gap"]
    np.testing.assert_array_equal(
        np.sort([noisy.winner, noisy.loser], 0), np.sort([base.winner, base.loser], 0)
    )
    other = pairs_of(bank, f"noisy:{p}", seed=1)
    assert not np.array_equal(other.winner, noisy.winner)


@pytest.mark.parametrize("q", [0.25, 0.5, 0.75])
def test_mixed_rows_pair_two_different_references(bank, q):
    pairs = pairs_of(bank, f"mixed:{q}")
    seen = figures(bank, pairs)
    assert seen["mixed_share"] == pytest.approx(q, abs=0.5 / ROWS)
    assert seen["flip_rate"] == 0
    both = ~is_expert(pairs.winner) & ~is_expert(pairs.loser)
    np.testing.assert_array_equal(both, pairs.mixed)
    assert (pairs.winner != pairs.loser).all()
    np.testing.assert_array_equal(pairs.winner // (1 + REFERENCES), pairs.loser // (1 + REFERENCES))


def test_poor_judge_flips_at_the_rate_of_its_sigmoid(bank):
    temperature = 600.0
    rates, expected = [], []
    for seed in range(30):
        pairs = pairs_of(bank, f"poor_judge:{temperature}", seed)
        gap = np.abs(bank.returns[pairs.winner] - bank.returns[pairs.loser])
        rates.append(figures(bank, pairs)["flip_rate"])
        expected.append(np.mean(1 / (1 + np.exp(gap / temperature))))
    error = math.sqrt(0.25 / (30 * ROWS))
    assert np.mean(rates) == pytest.approx(np.mean(expected), abs=4 * error)
    assert figures(bank, pairs_of(bank, "poor_judge:0.001"))["flip_rate"] == 0  # limit: the noiseless judge


def test_shuffled_leaves_nobody_the_own_partner(bank):
    pairs, base = pairs_of(bank, "shuffled"), pairs_of(bank, "base")
    assert (pairs.winner // (1 + REFERENCES) != pairs.loser // (1 + REFERENCES)).all()
    np.testing.assert_array_equal(np.sort(pairs.loser), np.sort(base.loser))


def test_small_is_the_beginning_of_base(bank):
    small, base = pairs_of(bank, "small:7"), pairs_of(bank, "base")
    np.testing.assert_array_equal(small.winner, base.winner[:7])
    assert len(pairs_of(bank, "small:5000").winner) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nosy:0.1", "did you mean 'noisy'"),
        ("noisy", "write 'noisy:VALUE'"),
        ("noisy:0.6", "share in"),
        ("base:1", "takes no value"),
        ("small:1.5", "number of rows"),
        ("mixed:x", "write 'mixed:VALUE'"),
        ("poor_judge:inf", "temperature"),
    ],
)
def test_bad_variants_are_told(text, message):
    with pytest.raises(PrefoptError, match=message):
        parse_variant(text)


def test_too_many_rows_are_told(bank):
    with pytest.raises(PrefoptError, match="200 start states"):
        pairs_of(bank, "base", rows=201)


def test_reference_sums_are_sums_over_each_trajectory(bank):
    for k in (0, 5, len(bank.lengths) - 1):
        part = bank.ref_logps[bank.offsets[k] : bank.offsets[k] + bank.lengths[k]]
        assert bank.ref_sums()[k] == pytest.approx(part.sum(dtype=np.float64))


@pytest.mark.parametrize("score", ["gap_sum", "gap_mean"])
def test_selection_keeps_the_largest_gaps(bank, score):
    pairs = pairs_of(bank, "noisy:0.2")
    mask = select(Selection(fraction=0.3, score=score), bank, pairs, 0)
    sums = bank.ref_sums() / (bank.tokens() if score == "gap_mean" else 1)
    gap = sums[pairs.winner] - sums[pairs.loser]
    assert mask.sum() == quotas({"": ROWS}, 0.3)[""]
    assert gap[mask].min() >= gap[~mask].max()


def test_methods_prepare_rows_and_weights(bank):
    pairs = pairs_of(bank, "base")
    plain, ones = prepare(METHODS["dpo"], bank, pairs, 0)
    assert plain is pairs
    assert (ones == 1).all()
    kept, _ = prepare(METHODS["dpo_select_40"], bank, pairs, 0)
    assert len(kept.winner) == 64
    bottom, _ = prepare(METHODS["dpo_bottom_40"], bank, pairs, 0)
    assert not set(kept.start) & set(bottom.start)


def test_difficulty_is_the_share_of_reference_rollouts_that_reach_the_winners_return(bank):
    pairs = pairs_of(bank, "mixed:0.5")
    _, weights = prepare(METHODS["dpo_difficulty"], bank, pairs, 0)
    right = (bank.reference_returns()[pairs.start] >= bank.returns[pairs.winner][:, None]).sum(axis=1)
    assert (right[~pairs.mixed] == 0).all()  # no reference reaches an expert here
    assert set(right[pairs.mixed]) == {1, 2}  # of three rollouts the winner is the best or the second
    raw = {0: 1.5, 1: 1.0 + 0.5 * 2 / 1, 2: 1.0 + 0.5 * 1 / 2}  # rules.weights.difficulty at alpha 0.5
    expected = np.array([raw[k] for k in right.tolist()])
    np.testing.assert_allclose(weights, expected / expected.mean())
    _, even = prepare(METHODS["dpo_difficulty"], bank, pairs_of(bank, "base"), 0)
    np.testing.assert_allclose(even, 1.0)


def test_every_method_has_the_same_budget():
    for method in METHODS.values():
        rows = method.candidates()
        assert len(rows) == len({tuple(sorted(row.items())) for row in rows}) == 25
    with pytest.raises(PrefoptError, match="did you mean"):
        find_method("dpo_bugdet")


def test_terms_take_hyperparameters_by_position():
    method = Method("x", [{"name": "dpo"}, {"name": "budget"}])
    assert method.terms({"beta": 1.0, "1.delta": 2.0, "learning_rate": 3.0}) == [
        {"name": "dpo", "beta": 1.0},
        {"name": "budget", "delta": 2.0},
    ]


def test_held_out_pairs_are_the_other_start_states_with_the_variants_labels(bank):
    variant = parse_variant("noisy:0.25")
    trained, held = make_pairs(bank, variant, ROWS, 3), held_out_pairs(bank, variant, ROWS, 3)
    assert not set(trained.start) & set(held.start)
    assert len(trained.start) + len(held.start) == STARTS
    assert figures(bank, held)["flip_rate"] == pytest.approx(0.25, abs=0.5 / (STARTS - ROWS))
    with pytest.raises(PrefoptError, match="none to hold out"):
        held_out_pairs(bank, variant, STARTS, 0)
