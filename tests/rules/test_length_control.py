"""The length-controlled win rate: hand-derived values, invariances, and its interval against what sampling gives."""

import math

import numpy as np
import pytest

from prefopt.rules.length_control import Anchors, length_controlled, length_terms


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def _logit(p):
    return math.log(p / (1 - p))


def test_terms_are_of_the_difference_in_units_of_its_own_spread():
    # differences 10, 0, -10: sd (ddof 1) is 10
    assert length_terms([30, 20, 10], [20, 20, 20]) == pytest.approx(np.tanh([1, 0, -1]))
    assert length_terms([5, 7], [3, 5]) == pytest.approx([0, 0])  # equal differences have no spread
    assert length_terms([5], [3]) == pytest.approx([0])


def test_equal_lengths_leave_the_plain_win_rate():
    y = [0.9, 0.2, 1.0, 0.0, 0.55]
    assert length_controlled(y, np.zeros(5))["mean"] == pytest.approx(np.mean(y), abs=1e-4)


def test_two_lengths_give_the_middle_of_the_two_logits():
    """Saturated: at t = +a the fit is the mean .2 there, at t = -a .6; half way, at t = 0, the mean of their logits."""
    terms = np.r_[np.full(200, 0.7), np.full(100, -0.7)]
    y = np.r_[np.full(200, 0.2), np.full(100, 0.6)]
    found = length_controlled(y, terms)
    assert found["mean"] == pytest.approx(_sigmoid((_logit(0.2) + _logit(0.6)) / 2), abs=1e-4)
    assert found["weights"]["length"] == pytest.approx((_logit(0.2) - _logit(0.6)) / 1.4, abs=1e-3)


def test_weights_are_found_again_and_prompts_are_averaged_at_equal_length():
    rng = np.random.default_rng(0)
    terms, gamma = np.tanh(rng.normal(0.5, 1, 4000)), rng.normal(0, 1.5, 4000)
    y = _sigmoid(-0.8 - 1.7 * terms + 0.9 * gamma)  # the preferences themselves: the fit is exact
    found = length_controlled(y, terms, gamma)
    assert found["weights"] == pytest.approx({"length": -1.7, "model": -0.8, "difficulty": 0.9}, abs=0.01)
    assert found["mean"] == pytest.approx(float(_sigmoid(-0.8 + 0.9 * gamma).mean()), abs=1e-3)


def test_heavy_anchors_hold_the_effect_of_length_and_difficulty_alone():
    rng = np.random.default_rng(1)
    t, g = np.tanh(rng.normal(0, 1, 500)), rng.normal(0, 1, 500)
    anchors = Anchors(_sigmoid(-2.0 * t + 0.5 * g), t, g, np.full(500, 1e5))
    terms, gamma = np.tanh(rng.normal(0.5, 1, 300)), rng.normal(0, 1, 300)
    y = _sigmoid(-1.0 + 0.3 * terms + gamma)
    found = length_controlled(y, terms, gamma, anchors)
    assert found["weights"]["length"] == pytest.approx(-2.0, abs=1e-3)
    assert found["weights"]["difficulty"] == pytest.approx(0.5, abs=1e-3)
    light = Anchors(anchors.preferences, t, g, np.zeros(500))  # weight 0 is absent
    assert length_controlled(y, terms, gamma, light)["mean"] == pytest.approx(
        length_controlled(y, terms, gamma)["mean"], abs=1e-9
    )


def test_order_means_nothing_and_copies_within_a_prompt_add_nothing():
    rng = np.random.default_rng(2)
    terms = np.tanh(rng.normal(0, 1, 80))
    y = (rng.random(80) < _sigmoid(0.5 - terms)).astype(float)
    one = length_controlled(y, terms)
    turned = length_controlled(y[::-1], terms[::-1])
    twice = length_controlled(np.r_[y, y], np.r_[terms, terms], groups=[*range(80), *range(80)])
    for other in (turned, twice):
        assert [other[k] for k in ("mean", "low", "high", "n")] == pytest.approx(
            [one[k] for k in ("mean", "low", "high", "n")], abs=1e-4
        )
    free = length_controlled(np.r_[y, y], np.r_[terms, terms])  # as if they were other prompts
    assert free["high"] - free["low"] < 0.8 * (one["high"] - one["low"])


def test_the_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        terms = np.tanh(rng.normal(0.6, 1, 150))
        y = (rng.random(150) < _sigmoid(-0.9 - 1.5 * terms)).astype(float)
        found = length_controlled(y, terms)
        hits += found["low"] <= _sigmoid(-0.9) <= found["high"]
    assert 0.90 <= hits / 200 <= 0.985  # 95% +- three standard errors


def test_a_side_that_wins_everything_has_finite_weights():
    found = length_controlled(np.ones(50), np.tanh(np.linspace(-2, 2, 50)))
    assert 0.99 < found["mean"] <= found["high"] <= 1
    assert all(math.isfinite(w) for w in found["weights"].values())


def test_few_prompts_and_wrong_shapes():
    assert length_controlled([1.0, 0.0], [0.1, 0.2], groups=["a", "a"])["mean"] is None
    assert length_controlled([], [])["n"] == 0
    with pytest.raises(ValueError, match="equal length"):
        length_controlled([1.0, 0.0], [0.1])
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="difficulty"):
        length_controlled([1.0, 0.0], [0.1, 0.2], anchors=Anchors(empty, empty, empty, empty))
