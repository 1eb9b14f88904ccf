"""Statistics against closed forms, enumeration and scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from prefopt.rules.intervals import (
    Z95,
    entropy_nats,
    majority_right,
    mcnemar,
    mean_maj_at_k,
    mean_pass_at_k,
    paired_difference,
    pass_at_k,
    powers_of_two,
    share_interval,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (480, 1000), (999, 1000)])
def test_wilson_is_scipys(successes, n):
    expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_solves_its_own_equation():
    # the ends are where |p - low| is z standard errors of low itself
    low, high = wilson(30, 100)
    for end in (low, high):
        assert abs(0.3 - end) == pytest.approx(Z95 * math.sqrt(end * (1 - end) / 100))


def test_wilson_without_samples_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_share_interval_of_single_samples_is_wilson(flags):
    found = share_interval([float(flag) for flag in flags])
    assert found["n"] == len(flags)
    assert (found["low"], found["high"]) == pytest.approx(wilson(sum(flags), len(flags)))
    assert found["low"] <= found["mean"] <= found["high"]


def test_share_interval_of_copies_counts_each_prompt_once():
    flags = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    once = share_interval(flags)
    copied = share_interval([f for f in flags for _ in range(8)], [i for i in range(7) for _ in range(8)])
    assert copied == pytest.approx(once)


def test_share_interval_of_independent_samples_gains_from_all_of_them():
    rng = np.random.default_rng(0)
    values = (rng.random(4000) < 0.4).astype(float).tolist()
    grouped = share_interval(values, [i // 8 for i in range(4000)])
    plain = share_interval(values)
    assert grouped["n"] == 500
    assert grouped["high"] - grouped["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.1)


@pytest.mark.parametrize("values", [[0.0] * 6, [1.0] * 6])
def test_share_interval_at_the_ends_stays_as_wide_as_the_prompts_allow(values):
    found = share_interval(values, [0, 0, 1, 1, 2, 2])
    assert (found["low"], found["high"]) == wilson(sum(values) / 2, 3)


def test_share_interval_covers_at_its_level_with_correlated_samples():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        difficulty = rng.beta(1, 1.5, size=80)  # mean 0.4
        values = (rng.random((80, 4)) < difficulty[:, None]).astype(float)
        found = share_interval(values.ravel().tolist(), [i // 4 for i in range(320)])
        inside += found["low"] <= 0.4 <= found["high"]
    assert 0.92 <= inside / 300 <= 0.98


def test_share_interval_of_nothing_is_null():
    assert share_interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, data):
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    samples = [True] * correct + [False] * (n - correct)
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses_what_has_no_meaning(n, correct, k):
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, correct, k)


def test_mean_pass_at_k_leaves_prompts_with_too_few_samples_out():
    found = mean_pass_at_k([(4, 1), (2, 1), (4, 0)])
    assert list(found) == ["1", "2", "4"]
    assert found["1"] == pytest.approx((0.25 + 0.5 + 0) / 3)
    assert found["2"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["4"] == pytest.approx(0.5)
    assert mean_pass_at_k([(4, 1)], [1, 8]) == {"1": 0.25}
    assert mean_pass_at_k([]) == {}


@pytest.mark.parametrize(("n", "ks"), [(0, []), (1, [1]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])])
def test_powers_of_two_end_with_n(n, ks):
    assert powers_of_two(n) == ks


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (12, 3), (3, 12), (130, 128), (40, 4)])
def test_mcnemar_is_the_binomial_test(gained, lost):
    n = gained + lost
    found = mcnemar(gained, lost)
    exact = scipy_stats.binomtest(gained, n).pvalue if n else 1.0
    assert found["exact"] == pytest.approx(exact)
    point = scipy_stats.binom.pmf(min(gained, lost), n, 0.5)
    expected = 2 * scipy_stats.binom.cdf(min(gained, lost), n, 0.5) - point if n else 1.0
    assert found["midp"] == pytest.approx(min(1.0, expected))


def test_mcnemar_handles_thousands_of_pairs():
    assert 0 <= mcnemar(5000, 4000)["exact"] < 1e-20


def test_paired_difference_of_single_outcomes_by_hand():
    before, after = [0, 0, 0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0, 0]
    found = paired_difference(before, after)
    # Bonett and Price: (3+1)/(8+2) gained, (1+1)/(8+2) lost
    half = Z95 * math.sqrt((0.4 + 0.2 - 0.2**2) / 10)
    assert found == {
        "mean": 0.25,
        "low": pytest.approx(0.2 - half),
        "high": pytest.approx(0.2 + half),
        "n": 8,
    }


def test_paired_difference_turned_round_is_negated():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2, 50).tolist() for _ in range(2))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))


def test_paired_difference_of_shares_is_the_normal_interval():
    before, after = [0.25, 0.5, 0.0, 0.75], [0.5, 0.5, 0.25, 1.0]
    difference = np.array(after) - np.array(before)
    half = Z95 * difference.std(ddof=1) / 2
    found = paired_difference(before, after)
    assert (found["low"], found["high"]) == pytest.approx((0.1875 - half, 0.1875 + half))


def test_paired_difference_of_copies_counts_each_prompt_once():
    before, after = [0.0, 0.5, 1.0, 0.25], [1.0, 0.5, 0.0, 0.75]
    four = [x for x in range(4) for _ in range(4)]
    copied = paired_difference([before[i] for i in four], [after[i] for i in four], four)
    assert copied == pytest.approx(paired_difference(before, after))


def test_paired_difference_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="equal length"):
        paired_difference([1], [1, 0])


def test_paired_difference_of_one_prompt_says_nothing():
    found = paired_difference([0.5, 0.5], [1, 0], ["p", "p"])
    assert found == {"mean": 0.0, "low": None, "high": None, "n": 1}
    assert paired_difference([0], [1]) == {"mean": 1.0, "low": None, "high": None, "n": 1}


def test_share_interval_of_one_prompt_says_nothing_of_others():
    """However many answers it has: that they agree says something of this prompt alone."""
    assert share_interval([1.0, 1.0, 0.0, 1.0], ["p"] * 4) == {
        "mean": 0.75,
        "low": None,
        "high": None,
        "n": 1,
    }
    assert share_interval([1.0]) == {"mean": 1.0, "low": None, "high": None, "n": 1}
    assert share_interval([1.0, 0.0], ["p", "q"])["low"] is not None


@pytest.mark.parametrize(
    ("counts", "nats"), [([], 0), ([7], 0), ([1, 1], math.log(2)), ([3, 1], 0.5623351446)]
)
def test_entropy_in_nats(counts, nats):
    assert entropy_nats(counts) == pytest.approx(nats)
    assert math.copysign(1, entropy_nats(counts)) == 1


def test_majorities_by_hand():
    assert majority_right([0, 0, 1], {0}) == 1.0
    assert majority_right([0, 1, 1], {0}) == 0.0
    assert majority_right([0, 1, 2, -1, -1, -1], {0}) == pytest.approx(
        1 / 3
    )  # no answer has no vote; a tie is shared
    assert majority_right([-1, -1], {0}) == 0.0
    found = mean_maj_at_k([([0, 1, 0, 0], {0}), ([0, 0], {1})])
    assert {k: value["mean"] for k, value in found.items()} == {
        "1": pytest.approx(3 / 6),
        "2": pytest.approx((0.5 + 1.0 + 0.0) / 3),
        "4": 1.0,
    }


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.sets(st.integers(0, 3)))
def test_a_majority_of_one_is_its_own_verdict_and_all_right_is_right(classes, right):
    found = mean_maj_at_k([(classes, right)], [1])
    assert found["1"]["mean"] == pytest.approx(sum(c in right for c in classes) / len(classes))
    assert majority_right(classes, {0, 1, 2, 3}) == float(any(c >= 0 for c in classes))
