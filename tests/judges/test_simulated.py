"""The simulated judge has the worth that its settings say."""

import math

import numpy as np
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.judges import Comparison, SimulatedSettings
from prefopt.judges.simulated import SimulatedJudge, sigmoid, uniforms


def calls(count, q1=0.5, q2=0.0):
    return [
        Comparison(f"p{k}", "q", {"id": "a", "completion": "x", "quality": q1}, {"id": "b", "completion": "y", "quality": q2})
        for k in range(count)
    ]  # fmt: skip


def winners(settings, batch, seed=0):
    return [v.winner for v in SimulatedJudge(settings).compare(batch, seed)]


@pytest.mark.parametrize("slope", [0.0, 1.5])
def test_rates_are_those_of_the_formula(slope):
    settings = SimulatedSettings(slope=slope, first_bias=1.0, tie_rate=0.2)
    found = winners(settings, calls(4000))
    assert found.count("tie") / 4000 == pytest.approx(0.2, abs=0.025)
    decided = 4000 - found.count("tie")
    expected = 1 / (1 + math.exp(-(slope * 0.5 + 1)))
    assert found.count("first") / decided == pytest.approx(expected, abs=0.03)


def test_verdicts_depend_on_the_call_and_the_seed_alone():
    settings, batch = SimulatedSettings(), calls(50)
    found = winners(settings, batch)
    assert winners(settings, batch[::-1]) == found[::-1]
    assert winners(settings, batch, seed=1) != found


def test_quality_is_drawn_from_a_normal_where_there_is_no_column():
    judge = SimulatedJudge(SimulatedSettings())
    drawn = np.array([judge.quality("p", {"id": "1", "completion": f"text {k}"}) for k in range(4000)])
    assert drawn.mean() == pytest.approx(0, abs=0.06)
    assert drawn.std() == pytest.approx(1, abs=0.05)
    assert judge.quality("p", {"id": "2", "completion": "text 0"}) == drawn[0]
    assert judge.quality("p", {"id": "2", "completion": "text 0", "quality": 3}) == 3.0


def test_a_named_column_must_be_there():
    judge = SimulatedJudge(SimulatedSettings(column="is_correct"))
    assert judge.quality("p", {"id": "1", "completion": "t", "is_correct": True}) == 1.0
    with pytest.raises(PrefoptError, match="'1': column 'is_correct' holds None"):
        judge.quality("p", {"id": "1", "completion": "t"})


def test_uniforms_and_sigmoid():
    values = np.array([uniforms("x", str(k)) for k in range(4000)])
    assert values.min() > 0
    assert values.max() < 1
    assert values.mean(0) == pytest.approx([0.5, 0.5], abs=0.02)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.05
    assert [sigmoid(x) for x in (-1e6, 0.0, 1e6)] == [0.0, 0.5, 1.0]
    assert sigmoid(-2.0) == pytest.approx(1 - sigmoid(2.0))
