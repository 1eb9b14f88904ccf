import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from prefopt.rules.describe import by_decile, correlation, histogram, mean, pearson, ranks, spearman
from prefopt.rules.order import hash_order, score_order


def test_correlations_agree_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = np.round(x + rng.normal(size=200), 1)  # ties
    assert pearson(x, y) == pytest.approx(scipy_stats.pearsonr(x, y)[0], abs=1e-12)
    assert spearman(x, y) == pytest.approx(scipy_stats.spearmanr(x, y)[0], abs=1e-12)
    np.testing.assert_array_equal(ranks(y), scipy_stats.rankdata(y))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([1.0, 2.0], [1.0, 2.0]),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        ([np.nan] * 4, [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_undefined_correlation_is_none(x, y):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    assert pearson(x, y) is None
    assert spearman(x, y) is None


def test_correlation_skips_missing_rows_and_counts_the_rest():
    x = np.array([1.0, 2.0, 3.0, np.nan, 5.0])
    y = np.array([2.0, 4.0, 6.0, 1.0, np.nan])
    assert correlation(x, y) == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0), "rows": 3}


def test_pearson_survives_huge_and_tiny_values():
    x = np.array([1e300, 2e300, 3e300])
    assert pearson(x, np.array([1e-300, 2e-300, 3e-300])) == pytest.approx(1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.randoms())
def test_mean_does_not_depend_on_order(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert mean(np.array(values)) == mean(np.array(shuffled))


def test_mean_of_nothing_is_none():
    assert mean(np.array([np.nan])) is None


def test_histogram_counts_every_finite_value_and_spans_the_cut():
    values = np.array([*np.linspace(-1, 1, 1000), 1e9, np.nan])
    kept = values > 0
    got = histogram(values, kept, include=[2.0])
    assert sum(got["all"]) == 1001
    assert sum(got["kept"]) == int(kept.sum())
    assert got["edges"][0] <= -0.98
    assert 2.0 <= got["edges"][-1] < 1e9  # the outlier is in the end bin and does not stretch the range
    assert len(got["edges"]) == len(got["all"]) + 1 == 41


def test_histogram_of_one_value_and_of_none():
    assert histogram(np.array([3.0, 3.0]), np.array([True, False]))["all"] == [2]
    assert histogram(np.array([np.nan]), np.array([False])) == {"edges": [], "all": [], "kept": []}


def test_deciles_follow_the_margin():
    margin = np.arange(100.0)
    got = by_decile(2 * margin, margin, [f"{i:03d}" for i in range(100)])
    assert [d["rows"] for d in got] == [10] * 10
    assert [d["low"] for d in got] == [10.0 * k for k in range(10)]
    assert [d["mean_gap"] for d in got] == [2 * (10 * k + 4.5) for k in range(10)]
    assert all(d["pearson"] == pytest.approx(1.0) for d in got)


def test_no_deciles_of_a_constant_margin():
    assert by_decile(np.arange(100.0), np.ones(100), [str(i) for i in range(100)]) == []
    assert by_decile(np.arange(9.0), np.arange(9.0), [str(i) for i in range(9)]) == []


def test_score_order_is_high_to_low_with_ties_by_id():
    order = score_order(np.array([1.0, 2.0, 2.0, 0.0]), ["d", "b", "a", "c"])
    assert order.tolist() == [2, 1, 0, 3]


@given(st.sets(st.text(max_size=5), min_size=1, max_size=20), st.integers(0, 5), st.randoms())
def test_hash_order_depends_on_ids_alone(ids, seed, random):
    ids = sorted(ids)
    other = list(ids)
    random.shuffle(other)
    assert [ids[i] for i in hash_order(ids, seed)] == [other[i] for i in hash_order(other, seed)]


def test_hash_order_varies_with_seed_and_salt():
    ids = [str(i) for i in range(50)]
    orders = {tuple(hash_order(ids, s, salt)) for s in range(3) for salt in ("", "x")}
    assert len(orders) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)
