"""Geometry of the figures, by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.report import plots
from prefopt.report.plots import Series


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_round_even_inside_and_few(low, span, count):
    high = low + span
    values = plots.ticks(low, high, count)
    if span < 1e-9 * abs(low):
        return
    slack = 1e-6 * span + 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= v <= high + slack for v in values)
    assert len(values) <= count + 1
    if len(values) > 2:
        steps = [b - a for a, b in itertools.pairwise(values)]
        assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9 * max(abs(low), abs(high))


def test_ticks_by_hand():
    assert plots.ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert plots.ticks(-0.25, 0.41, 4) == pytest.approx([-0.2, 0.0, 0.2, 0.4])
    assert plots.ticks(3, 3) == [3]
    assert plots.tick_label(-0.5, 0.5) == "\u22120.5"
    assert plots.tick_label(1000, 500) == "1,000"


def test_ladder_positions_are_in_proportion():
    figure = plots.ladder([("base", "kb", 0.4, 0.3, 0.5), ("full", "k0", 0.7, 0.6, 0.8)], "accuracy")
    base, full = figure.rungs
    assert base.value == "40.0%"
    assert base.interval == "[30.0, 50.0]"
    # equal distances in the data are equal distances in the figure, and all of it lies inside
    assert base.mean - base.low == pytest.approx(full.high - full.mean)
    assert full.mean - base.mean == pytest.approx(3 * (base.mean - base.low))
    assert base.low >= 0
    assert full.high <= 100
    assert "full 70.0% [60.0, 80.0]" in figure.label


def test_stacked_bars_have_areas_of_their_counts():
    figure = plots.histogram(
        [0, 1, 2], [("kept", "kept", [1, 3]), ("not kept", "dropped", [2, 0])], "gap", cuts=[1.0]
    )
    assert figure is not None
    heights = {(bar.x, bar.kind): bar.height for bar in figure.bars}
    assert heights == {(0.0, "kept"): 50.0, (0.0, "dropped"): 100.0, (50.0, "kept"): 150.0}
    assert [cut.at for cut in figure.cuts] == [50.0]
    assert figure.bars[1].y == 0.0  # stacked on top of the kept ones
    assert "4 kept" in figure.label
    assert "2 not kept" in figure.label


def test_nothing_to_count_is_no_figure():
    assert plots.histogram([], [], "x") is None
    assert plots.histogram([0, 1], [("", "kept", [0])], "x") is None
    assert plots.lines("x", [Series("a", "k0", [], [])]) is None
    assert plots.lines("x", [Series("a", "k0", [1], [math.nan])]) is None


def test_discrete_bars_stand_over_their_names():
    figure = plots.discrete(["0", "1"], [("prompts", "plainbar", [5, 10])], "right samples")
    for tick, bar in zip(figure.x_ticks, figure.bars, strict=True):
        assert tick.at == pytest.approx(bar.x + bar.width / 2)
    assert figure.bars[1].height == 2 * figure.bars[0].height


def test_curves_rise_upwards_and_keep_their_ends():
    figure = plots.lines("margin", [Series("full", "k0", [0, 50, 100], [0.0, 1.0, 2.0])])
    assert figure is not None
    (curve,) = figure.curves
    spots = [tuple(map(float, spot.split(","))) for spot in curve.smooth[1:].split("L")]
    assert [x for x, _ in spots] == [0, 500, 1000]
    assert spots[0][1] > spots[1][1] > spots[2][1]
    assert curve.readings[-1] == (100.0, "100", "2.00")
    assert "full from 0 to 2.00" in figure.label


def test_long_histories_are_averaged_without_moving_their_mean():
    values = [float(k % 7) for k in range(7000)]
    figure = plots.lines("loss", [Series("a", "k0", list(range(7000)), values)])
    assert figure is not None
    assert len(figure.curves[0].readings) <= plots.MOST_POINTS
    assert len(figure.curves[0].raw) < 8000


def test_running_mean_of_a_constant_is_the_constant():
    assert plots.running_mean([2.0] * 9, 5) == [2.0] * 9
    assert plots.running_mean([0.0, 3.0, 6.0], 3) == [1.5, 3.0, 4.5]


def test_one_point_and_constant_curves_are_drawn():
    assert plots.lines("x", [Series("a", "k0", [10], [1.0], held_out=True)]).curves[0].circles
    flat = plots.lines("x", [Series("a", "k0", [0, 1], [0.7, 0.7])])
    assert all(math.isfinite(tick.at) for tick in flat.y_ticks)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5), st.booleans())
def test_any_finite_values_have_a_figure_within_its_box(values, equal):
    values = [values[0]] * len(values) if equal else values
    figure = plots.lines("x", [Series("a", "k0", list(range(len(values))), values)])
    assert all(0 <= tick.at <= 150 for tick in figure.y_ticks)


def test_values_that_are_all_zero_have_a_figure():
    figure = plots.lines("accuracy", [Series("a", "k0", [1, 2], [0.0, 0.0])])
    assert figure.y_ticks[0].label.startswith("0")
