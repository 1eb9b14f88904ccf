import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.rules.weights import (
    SCHEMES,
    difficulty,
    entropy,
    find_scheme,
    finish,
    half_split,
    majority,
    minmax,
    shuffle_over_prompts,
)


def one(n, right, wrong, alpha, epsilon):
    arrays = (np.array([float(x)]) for x in (n, right, wrong))
    return float(difficulty(*arrays, alpha=alpha, epsilon=epsilon)[0])


@pytest.mark.parametrize(
    ("n", "right", "wrong", "alpha", "epsilon", "expected"),
    [
        (100, 0, 100, 0.1, 0.0, 1.1),
        (100, 1, 99, 0.1, 0.0, 10.9),
        (16, 8, 8, 0.5, 0.0, 1.5),
        (100, 25, 75, 1.0, 0.0, 4.0),
        (100, 100, 0, 0.0, 1.0, 1.01),
        (100, 100, 0, 7.0, 1.0, 1.01),
        (16, 0, 16, 0.5, 0.0, 1.5),  # the jump: unsolved ...
        (16, 1, 15, 0.5, 0.0, 8.5),  # ... and once solved
        (16, 0, 16, 0.5, 1.0, 1.5),  # epsilon is for solved prompts alone
    ],
)
def test_the_formula(n, right, wrong, alpha, epsilon, expected):
    assert one(n, right, wrong, alpha, epsilon) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 200), st.data(), st.floats(0, 10), st.floats(0, 10))
def test_range_and_neutral_constants(n, data, alpha, epsilon):
    right = data.draw(st.integers(0, n))
    w = one(n, right, n - right, alpha, epsilon)
    assert 1.0 <= w <= (1.0 + alpha * max(1, n - 1) + epsilon / n) * (1 + 1e-12)
    assert one(n, right, n - right, 0.0, 0.0) == 1.0


def test_weight_falls_with_every_right_sample_of_a_solved_prompt():
    n, right = np.full(16, 16.0), np.arange(1.0, 17.0)
    w = difficulty(n, right, n - right, alpha=0.5, epsilon=1.0)
    assert np.all(np.diff(w) < 0)


def test_minmax_spans_the_mixed_prompts():
    n = np.full(6, 10.0)
    w = minmax(n, np.array([0.0, 1.0, 5.0, 9.0, 10.0, 3.0]))
    np.testing.assert_allclose(w, [1.0, 1.2, 1.0, 0.8, 1.0, 1.1], rtol=1e-12)


def test_minmax_of_equal_or_no_mixed_prompts_is_one():
    assert minmax(np.full(2, 4.0), np.array([2.0, 2.0])).tolist() == [1.0, 1.0]
    assert minmax(np.full(2, 4.0), np.array([0.0, 4.0])).tolist() == [1.0, 1.0]


def test_schemes_without_gold():
    n, share = np.full(3, 8.0), np.array([8.0, 4.0, 2.0])
    assert majority(n, share, alpha=0.5, epsilon=0.0).tolist() == [1.0, 1.5, 2.5]
    assert entropy(np.array([0.0, math.log(2)]), alpha=0.5).tolist() == [1.0, 1.0 + 0.5 * math.log(2)]


def test_shuffle_moves_whole_prompts_and_keeps_the_weights():
    prompts = [f"p{i // 4}" for i in range(200)]
    ids = [f"{p}-{i % 4}" for i, p in enumerate(prompts)]
    w = np.repeat(np.arange(50.0), 4)
    got = shuffle_over_prompts(w, prompts, ids, seed=1)
    assert sorted(got) == sorted(w)
    assert all(len(set(got[i : i + 4])) == 1 for i in range(0, 200, 4))
    assert np.mean(got == w) < 0.2
    assert not np.array_equal(got, shuffle_over_prompts(w, prompts, ids, seed=2))


@given(st.permutations(range(12)))
def test_shuffle_does_not_depend_on_the_order_of_rows(order):
    prompts = [f"p{i % 5}" for i in range(12)]
    ids = [f"{i:02d}" for i in range(12)]
    w = np.arange(12.0)
    one_way = dict(zip(ids, shuffle_over_prompts(w, prompts, ids, 0).tolist(), strict=True))
    own = [ids[i] for i in order]
    got = shuffle_over_prompts(w[list(order)], [prompts[i] for i in order], own, 0)
    assert one_way == dict(zip(own, got.tolist(), strict=True))


def test_mean1_makes_the_mean_one_and_raw_leaves_the_scale():
    w = np.array([1.0, 2.0, 6.0])
    assert finish(w, ["a", "b", "c"]).tolist() == [1 / 3, 2 / 3, 2.0]
    assert finish(w, ["a", "b", "c"], normalize="raw").tolist() == w.tolist()


@given(st.integers(1, 1000))
def test_equal_weights_become_exactly_one(count):
    assert set(finish(np.ones(count), ["p"] * count).tolist()) == {1.0}


def test_clip_then_per_prompt_then_mean():
    w = np.array([9.0, 9.0, 3.0])
    prompts = ["a", "a", "b"]
    assert finish(w, prompts, clip=4.0, normalize="raw").tolist() == [4.0, 4.0, 3.0]
    assert finish(w, prompts, clip=4.0, per_prompt=True, normalize="raw").tolist() == [2.0, 2.0, 3.0]
    assert math.fsum(finish(w, prompts, clip=4.0, per_prompt=True)) == pytest.approx(3.0)


def test_per_prompt_gives_every_prompt_its_weight_once():
    prompts = ["a"] * 4 + ["b"]
    got = finish(np.array([2.0] * 4 + [3.0]), prompts, per_prompt=True, normalize="raw")
    assert math.fsum(got[:4]) == 2.0
    assert got[4] == 3.0


def test_all_zero_weights_are_refused():
    with pytest.raises(PrefoptError, match="all weights are 0"):
        finish(np.zeros(3), ["a", "b", "c"])


def by_difficulty(n, right):
    return difficulty(n, right, n - right, alpha=0.5, epsilon=1.0)


def test_half_split_of_sure_prompts_is_one_and_of_noise_is_about_zero():
    prompts = [f"p{i // 16:03d}" for i in range(16 * 200)]
    ids = [f"{p}-{i % 16}" for i, p in enumerate(prompts)]
    rng = np.random.default_rng(0)
    sure = np.repeat(rng.random(200) < 0.5, 16)
    assert half_split(prompts, ids, sure, by_difficulty, 0) == (pytest.approx(1.0), 200)
    coin = rng.random(16 * 200) < 0.5
    assert abs(half_split(prompts, ids, coin, by_difficulty, 0)[0]) < 0.2
    skill = rng.random(16 * 200) < np.repeat(rng.random(200), 16)
    assert 0.5 < half_split(prompts, ids, skill, by_difficulty, 0)[0] < 1.0


def test_half_split_leaves_out_single_samples():
    assert half_split(["a", "b"], ["1", "2"], np.array([True, False]), by_difficulty, 0) == (None, 0)


def test_every_scheme_has_a_description_and_unknown_ones_are_named():
    assert all(scheme.about for scheme in SCHEMES.values())
    with pytest.raises(PrefoptError, match="did you mean 'difficulty'"):
        find_scheme("dificulty")


def test_minmax_counts_wrong_less_right_where_prompts_have_other_numbers_of_samples():
    """By hand: 2, 0 and -4 of 4, 8 and 6 samples, from 0.8 for the easiest to 1.2 for the hardest."""
    found = minmax(np.array([4.0, 8.0, 6.0]), np.array([1.0, 4.0, 5.0]))
    np.testing.assert_allclose(found, [1.2, 0.8 + 0.4 * 4 / 6, 0.8])
