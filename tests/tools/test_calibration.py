"""Calibration figures against their formulas, at limits, and the drawing."""

import math
import random
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.tools.reward.calibration import calibration, draw_reliability, reliability

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def direct_ece(probabilities, bins):
    """Guo et al. 2017, eq. 3, by a loop over pairs."""
    cells = {}
    for p in probabilities:
        confidence = max(p, 1 - p)
        right = 0.5 if p == 0.5 else float(p > 0.5)
        place = min(int((confidence - 0.5) * 2 * bins), bins - 1)
        cells.setdefault(place, []).append((confidence, right))
    total = 0.0
    for members in cells.values():
        gap = sum(c for c, _ in members) / len(members) - sum(r for _, r in members) / len(members)
        total += len(members) / len(probabilities) * abs(gap)
    return total


@given(SHARES, st.integers(1, 20))
def test_ece_is_the_formula(probabilities, bins):
    assert calibration(probabilities, bins)["ece"] == pytest.approx(
        direct_ece(probabilities, bins), abs=1e-12
    )


def test_by_hand():
    # confidences .9 right, .9 wrong, .6 right, .6 right; two bins: [.5, .75) and [.75, 1]
    figures = calibration([0.9, 0.1, 0.6, 0.6], 2)
    assert figures["ece"] == pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.6 - 1.0))
    assert figures["overconfidence"] == pytest.approx(0.5 * 0.4 - 0.5 * 0.4)
    assert figures["brier"] == pytest.approx((0.01 + 0.81 + 0.16 + 0.16) / 4)
    assert figures["log_loss"] == pytest.approx(-(2 * math.log(0.6) + math.log(0.9) + math.log(0.1)) / 4)
    assert [row["n"] for row in figures["bins"]] == [2, 2]


@given(SHARES)
def test_bins_hold_every_pair_once(probabilities):
    table = reliability(probabilities, 7)
    assert sum(row["n"] for row in table) == len(probabilities)
    for row in table:
        assert row["from"] - 1e-12 <= row["confidence"] <= row["to"] + 1e-12
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]


def test_honest_probabilities_are_calibrated_and_boastful_ones_are_not():
    rng = random.Random(0)
    stated = [rng.uniform(0.5, 1) for _ in range(4000)]
    honest = [p if rng.random() < p else 1 - p for p in stated]
    boastful = [0.99 if p > 0.5 else 0.01 for p in honest]
    assert calibration(honest)["ece"] < 0.04
    assert calibration(boastful)["overconfidence"] > 0.2


def test_limits():
    assert calibration([1.0] * 5)["ece"] == 0
    assert calibration([0.0] * 5)["ece"] == 1
    assert calibration([0.5] * 5)["ece"] == 0
    assert calibration([])["ece"] is None
    assert math.isfinite(calibration([0.0])["log_loss"])
    for wrong in ([1.2], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            calibration(wrong)
    with pytest.raises(ValueError, match="bins"):
        reliability([0.5], 0)


def test_the_drawing_stands_alone():
    drawn = draw_reliability(calibration([0.9, 0.2, 0.7, 0.6]), "a <b> & c")
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == len(calibration([0.9, 0.2, 0.7, 0.6])["bins"])
    ElementTree.fromstring(draw_reliability(calibration([]), "empty"))
