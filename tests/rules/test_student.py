"""Student's t by finite sums, against tables and scipy's own; Holm's correction against its definition."""

import math

import pytest

from prefopt.rules.student import holm, over_seeds, t_probability, t_quantile


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_table(freedom, table):
    assert t_quantile(freedom) == pytest.approx(table, abs=6e-4)
    assert t_probability(t_quantile(freedom), freedom) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize("freedom", range(1, 12))
def test_probabilities_are_scipys(freedom):
    special = pytest.importorskip("scipy.special")
    for t in (0.0, 0.3, 1.0, 2.5, -4.0, 40.0):
        assert t_probability(t, freedom) == pytest.approx(2 * special.stdtr(freedom, -abs(t)), abs=1e-12)
    with pytest.raises(ValueError, match="degree"):
        t_probability(1.0, 0)


def test_an_interval_over_seeds_by_hand():
    found = over_seeds([1.0, 2.0, 3.0])
    error = 1.0 / math.sqrt(3)
    assert found["mean"] == 2.0
    assert found["standard_error"] == pytest.approx(error)
    assert found["high"] - found["low"] == pytest.approx(2 * 4.302653 * error, rel=1e-6)
    assert found["p"] == pytest.approx(t_probability(2.0 / error, 2))
    alone = over_seeds([0.5])
    assert (alone["mean"], alone["low"], alone["p"]) == (0.5, None, None)
    assert over_seeds([0.0, 0.0])["p"] == 1.0
    assert over_seeds([1.0, 1.0])["p"] == 0.0


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
