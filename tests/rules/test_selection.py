import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.rules.selection import RULES, choose, find_rule, gap_mean, gap_sum, quotas

SCORES = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
IDS = [f"r{i}" for i in range(10)]


def kept(rule, scores=SCORES, ids=IDS, **options):
    mask, _ = choose(scores, ids, rule, **options)
    return [i for i, keep in zip(ids, mask, strict=True) if keep]


def test_gaps_by_hand():
    chosen, rejected = np.array([-10.0]), np.array([-12.0])
    assert gap_sum(chosen, rejected)[0] == 2.0
    # -10/5 + 12/3: the sum favours chosen less than the mean does
    assert gap_mean(chosen, rejected, np.array([5.0]), np.array([3.0]))[0] == 2.0
    assert gap_mean(chosen, rejected, np.array([2.0]), np.array([4.0]))[0] == -2.0


def test_gap_is_unknown_without_tokens_or_logps():
    x = np.array([-1.0, -1.0, np.nan, -np.inf])
    y = np.array([-2.0, -2.0, -1.0, -np.inf])
    got = gap_mean(x, y, np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert np.isnan(got).tolist() == [False, True, True, True]
    assert np.isnan(gap_sum(x, y)).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("rule", "options", "expected", "cuts"),
    [
        ("top", {"fraction": 0.4}, "0123", [2.0]),
        ("bottom", {"fraction": 0.3}, "789", [-2.0]),
        ("middle", {"fraction": 0.4}, "3456", [-1.0, 2.0]),
        ("two_tailed", {"fraction": 0.4}, "0189", [-3.0, 4.0]),
        ("two_tailed", {"fraction": 0.3}, "019", [-4.0, 4.0]),
        ("positive", {}, "01234", [0.0]),
        ("threshold", {"limit": -2.0}, "01234567", [-2.0]),
        ("all", {}, "0123456789", []),
    ],
)
def test_rules_by_hand(rule, options, expected, cuts):
    mask, found = choose(SCORES, IDS, rule, **options)
    assert "".join(str(i) for i in np.flatnonzero(mask)) == expected
    assert found == {"": cuts}


def test_ties_are_broken_by_id():
    assert kept("top", np.zeros(4), ["d", "b", "a", "c"], fraction=0.5) == ["b", "a"]
    assert kept("bottom", np.zeros(4), ["d", "b", "a", "c"], fraction=0.5) == ["d", "c"]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_unscored_pairs_are_kept_only_where_no_score_is_needed(rule):
    scores = np.array([1.0, np.nan, 3.0])
    got = kept(rule, scores, ["a", "b", "c"], fraction=1.0, limit=-9.0)
    assert got == (["a", "c"] if RULES[rule].needs_score else ["a", "b", "c"])


def test_random_is_seeded_and_near_uniform():
    ids = [f"x{i}" for i in range(400)]
    runs = [tuple(kept("random", np.zeros(400), ids, fraction=0.25, seed=s)) for s in range(40)]
    assert all(len(run) == 100 for run in runs)
    assert len(set(runs)) == 40
    assert kept("random", np.full(400, np.nan), ids, fraction=0.25, seed=3) == list(runs[3])
    times = np.array([sum(i in run for run in map(set, runs)) for i in ids])
    assert abs(times.mean() - 10) < 1e-9
    assert 5.0 < times.var() < 10.5  # binomial: 40 * .25 * .75 = 7.5


def test_strata_keep_their_own_share():
    strata = ["a"] * 5 + ["b"] * 5
    mask, cuts = choose(SCORES, IDS, "top", fraction=0.4, strata=strata)
    assert np.flatnonzero(mask).tolist() == [0, 1, 5, 6]
    assert cuts == {"a": [4.0], "b": [-1.0]}


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ({"a": 100}, 0.29, {"a": 29}),
        ({"a": 5}, 0.5, {"a": 3}),
        ({"a": 1}, 0.1, {"a": 1}),
        ({"a": 1, "b": 1, "c": 8}, 0.4, {"a": 1, "b": 0, "c": 3}),
        ({"a": 3, "b": 3}, 1.0, {"a": 3, "b": 3}),
        ({}, 0.4, {}),
    ],
)
def test_quotas(sizes, fraction, expected):
    assert quotas(sizes, fraction) == expected


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 50), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_quotas_sum_to_the_rounded_total_and_are_within_one(sizes, fraction):
    got = quotas(sizes, fraction)
    total = sum(sizes.values())
    assert sum(got.values()) == max(1, int(np.floor(round(fraction * total, 9) + 0.5)))
    for name, count in got.items():
        assert 0 <= count <= sizes[name]
        assert abs(count - fraction * sizes[name]) <= 1.0


@st.composite
def tables(draw):
    n = draw(st.integers(1, 30))
    scores = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan]), min_size=n, max_size=n))
    ids = draw(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=n, max_size=n, unique=True))
    strata = draw(st.none() | st.lists(st.sampled_from("xy"), min_size=n, max_size=n))
    return np.array(scores), ids, strata, draw(st.permutations(range(n)))


@given(tables(), st.sampled_from(sorted(RULES)), st.floats(0.05, 1.0), st.integers(0, 3))
def test_the_kept_ids_do_not_depend_on_the_order_of_rows(table, rule, fraction, seed):
    scores, ids, strata, order = table
    options = {"fraction": fraction, "limit": 0.25, "seed": seed}
    one, cuts = choose(scores, ids, rule, strata=strata, **options)
    other, other_cuts = choose(
        scores[list(order)],
        [ids[i] for i in order],
        rule,
        strata=[strata[i] for i in order] if strata else None,
        **options,
    )
    assert {ids[i] for i in np.flatnonzero(one)} == {ids[order[i]] for i in np.flatnonzero(other)}
    assert cuts == other_cuts


@given(tables(), st.floats(0.05, 1.0))
def test_top_and_bottom_of_complementary_fractions_part_the_scored_pairs(table, fraction):
    scores, ids, _, _ = table
    scored = int(np.isfinite(scores).sum())
    top, _ = choose(scores, ids, "top", fraction=fraction)
    bottom, _ = choose(scores, ids, "bottom", fraction=fraction)
    assert top.sum() == bottom.sum() == (quotas({"": scored}, fraction)[""] if scored else 0)
    if top.any() and not top[np.isfinite(scores)].all():
        assert scores[top].min() >= scores[~top & np.isfinite(scores)].max()
        assert scores[bottom].max() <= scores[~bottom & np.isfinite(scores)].min()


def test_unknown_rule_names_the_nearest():
    with pytest.raises(PrefoptError, match="did you mean 'middle'"):
        find_rule("midle")
