"""Win rates and agreement from votes: values by hand, and that the order of names means nothing."""

import numpy as np
import pytest

from prefopt.rules.student import t_quantile
from prefopt.rules.votes import INCONSISTENT, Vote, agreement, judge_kind, mean_interval, win_rates


def vote(judge, question, winner, a="x", b="y", turn=1):
    return Vote(judge, question, turn, a, b, winner)


def test_win_rates_count_a_tie_half_for_both():
    votes = [
        vote("j", 1, "model_a"),
        vote("j", 2, "tie"),
        vote("j", 3, INCONSISTENT),
        vote("j", 4, "model_b", b="z"),
    ]
    found = win_rates(votes)
    assert list(found) == ["z", "x", "y"]
    assert (found["x"]["wins"], found["x"]["ties"], found["x"]["losses"]) == (1, 2, 1)
    assert found["x"]["win_rate"] == 0.25
    assert [found[m]["adjusted"]["mean"] for m in "xyz"] == pytest.approx([0.5, 1 / 3, 1.0])
    assert sum(entry["wins"] - entry["losses"] for entry in found.values()) == 0


def test_agreement_by_hand():
    votes = [
        vote("gpt", 1, "model_a"), vote("expert_1", 1, "model_b", "y", "x"), vote("expert_2", 1, "model_b"),
        vote("gpt", 2, INCONSISTENT), vote("expert_1", 2, "tie"), vote("expert_3", 2, "model_a"),
        vote("gpt", 3, "model_b", turn=2), vote("expert_1", 3, "model_b", turn=1),  # other turns do not meet
    ]  # fmt: skip
    both = agreement(votes, "gpt", "expert", ties=True)
    assert (both["mean"], both["pairs"], both["n"]) == (2 / 4, 4, 2)
    assert agreement(votes, "expert", "gpt", ties=True) == both
    clear = agreement(votes, "gpt", "expert", ties=False)
    assert (clear["mean"], clear["pairs"]) == (1 / 2, 2)
    people = agreement(votes, "expert", "expert", ties=True)
    assert (people["mean"], people["pairs"]) == (0.0, 2)
    assert agreement(votes, "gpt", "nobody", ties=True)["mean"] is None


def test_kinds_of_judges():
    assert [judge_kind(n) for n in ("expert_17", "author-2", "gpt4_pair", "gpt-4", "7")] == [
        "expert", "author", "gpt4_pair", "gpt", "7",
    ]  # fmt: skip


def test_mean_interval_is_students_and_takes_questions_together():
    values = [3.0, 5.0, 4.0, 9.0]
    found = mean_interval(values, range(4))
    half = t_quantile(3) * np.std(values, ddof=1) / 2
    assert [found["mean"], found["low"], found["high"]] == pytest.approx([5.25, 5.25 - half, 5.25 + half])
    twice = mean_interval(values * 2, [*range(4), *range(4)])
    assert twice == pytest.approx(found)
    assert mean_interval([7.0, 8.0], ["q", "q"])["low"] is None
    assert mean_interval([], [])["mean"] is None
