"""Label noise and near-equal pairs from gaps: planted mixtures are found, or the interval says that they are not."""

from __future__ import annotations

import numpy as np
import pytest

from prefopt.rules.gap_mixture import fit_gaps

CASES = [  # noise, share of near-equal pairs, distance of the sides from 0 in their spread, degrees of freedom
    (0.0, 0.0, 1.5, None), (0.1, 0.0, 2.0, None), (0.2, 0.0, 1.5, None), (0.3, 0.0, 1.5, None),
    (0.0, 0.25, 2.0, None), (0.1, 0.5, 1.5, None), (0.2, 0.25, 1.0, None), (0.3, 0.25, 2.0, None),
    (0.2, 0.5, 1.5, None), (0.1, 0.0, 2.0, 4.0),
]  # fmt: skip


def planted(noise, equal, apart, degrees, *, count=500, seed=0):
    """Gaps [N] with the planted shares as drawn: of wrong labels among the clear pairs, and of near-equal pairs."""
    rng = np.random.default_rng([seed, round(100 * noise), round(100 * equal)])
    z = rng.standard_normal(count) if degrees is None else rng.standard_t(degrees, count)
    near, wrong = rng.random(count) < equal, rng.random(count) < noise
    gaps = np.where(near, 0.4 * z, apart + z) * np.where(wrong, -1.0, 1.0)
    return 0.03 * gaps, float(wrong[~near].mean()), float(near.mean())


def within(found, truth):
    return abs(found["value"] - truth) <= 0.07 or found["low"] <= truth <= found["high"]


def test_planted_noise_and_mixture_are_found_or_inside_the_interval():
    good = {"noise": 0, "equal": 0}
    for k, case in enumerate(CASES):
        gaps, noise, equal = planted(*case, seed=k)
        found = fit_gaps(gaps, draws=40, seed=k)
        good["noise"] += within(found.noise, noise)
        good["equal"] += within(found.equal, equal)
        assert found.noise["high"] <= 0.5
    assert min(good.values()) >= 9, good


@pytest.mark.slow
def test_planted_ones_over_many_draws():
    """30 samples per case: each share right or inside its interval in nine of ten."""
    for case in CASES:
        good = np.zeros(2)
        for seed in range(30):
            gaps, noise, equal = planted(*case, seed=seed)
            found = fit_gaps(gaps, seed=seed)
            good += [within(found.noise, noise), within(found.equal, equal)]
        assert (good >= 27).all(), (case, good)


def test_clear_noise_is_told_narrowly_and_wherever_the_better_side_lies():
    gaps, noise, _ = planted(0.2, 0.0, 2.0, None)
    for side in (1.0, -1.0):  # a reference that finds the worse answers likelier
        found = fit_gaps(side * gaps, draws=60)
        assert found.noise["value"] == pytest.approx(noise, abs=0.04)
        assert found.noise["high"] - found.noise["low"] < 0.12
        assert np.sign(found.centre) == side
        assert found.separation == pytest.approx(2.0, abs=0.3)
        assert abs(found.centre) == pytest.approx(0.06, abs=0.01)  # in the gaps' own unit


def test_one_hill_says_nothing_narrow():
    """Gaps that do not know the better answer: nothing can be told, and the interval says so."""
    gaps = np.random.default_rng(0).standard_normal(800)
    found = fit_gaps(gaps, draws=60)
    assert (found.noise["low"], found.noise["high"]) == (0.0, 0.5)
    assert (found.equal["low"], found.equal["high"]) == (0.0, 1.0)


def test_pairs_of_one_prompt_count_together():
    gaps, _, _ = planted(0.2, 0.0, 2.0, None, count=300)
    alone = fit_gaps(gaps, draws=100)
    repeated = fit_gaps(np.repeat(gaps, 6), np.repeat(np.arange(300), 6).tolist(), draws=100)
    width = lambda found: found.noise["high"] - found.noise["low"]  # noqa: E731
    assert width(repeated) > 0.7 * width(alone)
    assert repeated.noise["value"] == pytest.approx(alone.noise["value"], abs=0.01)


def test_it_is_a_function_of_gaps_and_seed_and_refuses_what_is_none():
    gaps, _, _ = planted(0.1, 0.25, 1.5, None, count=200)
    assert fit_gaps(gaps, draws=20, seed=3) == fit_gaps(gaps, draws=20, seed=3)
    assert fit_gaps(7 * gaps, draws=20).noise["value"] == pytest.approx(
        fit_gaps(gaps, draws=20).noise["value"], abs=1e-6
    )
    for bad in ([1.0, 2.0], [1.0, 1.0, 1.0], [1.0, np.nan, 2.0]):
        with pytest.raises(ValueError, match="finite and not all the same"):
            fit_gaps(bad)
    with pytest.raises(ValueError, match="one group per gap"):
        fit_gaps([1.0, 2.0, 4.0], ["a"])
