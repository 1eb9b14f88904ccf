"""Recorded verdicts: both forms of judgments, majorities, aliases, gaps, hubs."""

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.judges import Comparison, PairwiseJudgeConfig, open_judge
from prefopt.judges.recorded import RecordedJudge, votes_of
from prefopt.tables.context import Context

WIDE = [
    {
        "idx": 1,
        "model_a": "x",
        "model_b": "y",
        "human_votes": ["a", "b", "a"],
        "majority": "a",
        "gpt-3.5": "b",
    },
    {"idx": 2, "model_a": "y", "model_b": "z", "human_votes": ["a", "b", "tie"], "gpt-3.5": None},
]
LONG = [
    {"judge": "strong_v2", "model_a": "hub", "model_b": "x", "preference_b": 0.9, "winner": "b"},
    {"judge": "strong_v2", "model_a": "hub", "model_b": "y", "preference_b": 0.6, "winner": "b"},
    {"judge": "weak_v1", "model_a": "hub", "model_b": "x", "preference_b": 0.0, "winner": "a"},
    {"judge": "weak_v1", "model_a": "hub", "model_b": "y", "preference_b": 0.5},
    {"judge": "strong_v2", "model_a": "other", "model_b": "z", "preference_b": 0.7},
]


def ask(judgments, one, other, source=None, hub=False, **more):
    rows = [{"id": m, "completion": m, "model": m, "judgments": judgments, **more} for m in (one, other)]
    judge = RecordedJudge(source, hub=hub)
    judge.check(rows)
    (verdict,) = judge.compare([Comparison("p", "q", *rows)], 0)
    return verdict


def test_wide_form_by_majority_and_by_judge():
    assert ask(WIDE, "x", "y").winner == "first"
    assert ask(WIDE, "y", "x").winner == "second"
    assert ask(WIDE, "y", "z").winner == "tie"  # one vote each
    assert ask(WIDE, "x", "z").winner == "missing"
    assert ask(WIDE, "x", "y", "gpt-3.5").winner == "second"
    assert ask(WIDE, "y", "z", "gpt-3.5").winner == "missing"


def test_long_form_by_name_part_of_a_name_and_majority():
    strong = ask(LONG, "hub", "x", "strong_v2")
    assert (strong.winner, strong.probability) == ("second", pytest.approx(0.1))
    assert ask(LONG, "x", "hub", "weak").winner == "second"
    assert ask(LONG, "hub", "x").winner == "tie"  # the two judges disagree
    assert ask(LONG, "y", "hub", "weak_v1").winner == "tie"
    assert ask(LONG, "x", "y", "strong_v2").winner == "missing"
    assert ask(LONG, "z", "other", "strong").winner == "first"  # winner follows from the preference
    with pytest.raises(PrefoptError, match=r"no judge is named 'strnog_v2'.*strong_v2"):
        ask(LONG, "x", "y", "strnog_v2")
    with pytest.raises(PrefoptError, match="no judge is named '_v'"):  # part of two names
        ask(LONG, "x", "y", "_v")


def test_hub_completion_compares_preferences_over_a_common_answer():
    verdict = ask(LONG, "x", "y", "strong_v2", hub=True)
    # logit(.9) - logit(.6)
    assert verdict.winner == "first"
    assert verdict.probability == pytest.approx(6 / 7)
    assert verdict.text == "over hub"
    assert ask(LONG, "y", "x", "weak_v1", hub=True).winner == "first"
    assert ask(LONG, "x", "z", "strong_v2", hub=True).winner == "missing"  # no common answer
    assert ask(LONG, "hub", "x", "strong_v2", hub=True).text == ""  # a direct verdict goes first


def test_equal_texts_answer_for_each_other():
    rows = [
        {"id": "1", "completion": "t", "model": "w", "same_text": ["x"], "judgments": WIDE},
        {"id": "2", "completion": "u", "model": "y", "judgments": WIDE},
    ]
    judge = RecordedJudge(None)
    judge.check(rows)
    assert judge.compare([Comparison("p", "q", *rows)], 0)[0].winner == "first"


def test_votes_are_kept_for_both_orders():
    table = votes_of(WIDE[1:])
    assert sorted(table["y", "z"].shares) == [0.0, 0.5, 1.0]
    assert table["z", "y"].preference == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("column", "one", "other", "winner"),
    [("rank", 0, 2, "first"), ("score", 0.1, 0.4, "second"), ("is_correct", True, True, "tie"), ("rank", 1, None, "missing")],
)  # fmt: skip
def test_columns_decide_where_there_are_no_judgments(column, one, other, winner):
    rows = [{"id": str(i), "completion": "t", column: value} for i, value in enumerate((one, other))]
    judge = open_judge(PairwiseJudgeConfig(kind="recorded"), Context())
    judge.check(rows)
    assert judge.describe()["source"] == column
    assert judge.compare([Comparison("p", "q", *rows)], 0)[0].winner == winner


def test_nothing_recorded_is_an_error():
    with pytest.raises(PrefoptError, match="no judgments by 'majority'"):
        RecordedJudge(None).check([{"id": "1", "completion": "t"}])
    with pytest.raises(PrefoptError, match="no judgments by 'gpt4'"):
        RecordedJudge("gpt4").check([{"id": "1", "completion": "t", "rank": 1}])
