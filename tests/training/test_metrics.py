"""Metrics by hand, the check of the first batch, and the history as rows."""

from __future__ import annotations

import math

import pytest
import torch

from prefopt.losses import build_loss
from prefopt.training import metrics

LOSS = build_loss([{"name": "dpo", "beta": 0.5}, {"name": "budget", "delta": 0.5}])


def columns(**values):
    base = {
        "chosen": [-10.0, -20.0, -30.0, -40.0],
        "rejected": [-12.0, -12.0, -50.0, -41.0],
        "ref_chosen": [-8.0, -24.0, -30.0, -36.0],
        "ref_rejected": [-12.0, -12.0, -45.0, -40.0],
        "chosen_tokens": [2.0, 4.0, 5.0, 10.0],
        "rejected_tokens": [3.0, 3.0, 9.0, 9.0],
        "weight": [1.0, 2.0, 0.0, 1.0],
        "loss": [0.5, 1.0, 9.0, 3.0],
    }
    return {name: torch.tensor(column) for name, column in {**base, **values}.items()}


def test_figures_by_hand():
    found = metrics.summarize(columns(), LOSS)
    # r_w = -2, 4, 0, -4; r_l = 0, 0, -5, -1; h = -2, 4, 5, -3
    assert found["loss"] == pytest.approx((0.5 + 2.0 + 0.0 + 3.0) / 4)
    assert found["rewards/chosen"] == pytest.approx(0.5 * -0.5)
    assert found["rewards/rejected"] == pytest.approx(0.5 * -1.5)
    assert found["rewards/margins"] == pytest.approx(0.5 * 1.0)
    assert found["rewards/accuracies"] == 0.5
    assert found["logps/h"] == pytest.approx(1.0)
    assert found["logps/chosen"] == pytest.approx(-25.0)
    assert found["logps/rejected"] == pytest.approx(-28.75)
    assert found["logps/chosen_drift"] == pytest.approx(-0.5)
    assert found["logps/chosen_drift_per_token"] == pytest.approx((-1.0 + 1.0 + 0.0 - 0.4) / 4)
    # the 5th percentile of -4, -2, 0, 4 lies 15% of the way from the first to the second
    assert found["logps/chosen_drift_p05"] == pytest.approx(-3.7)
    # falls of 2, -4, 0, 4 against budgets of 1, 2, 2.5, 5
    assert found["logps/over_budget"] == 0.25


def test_budget_per_response_and_inside_the_sigmoid_count_too():
    outside = build_loss(["dpo", {"name": "budget", "delta": 1.0, "unit": "response"}])
    inside = build_loss(["dpo", {"name": "budget", "delta": 1.0, "unit": "response", "inside": True}])
    for loss in (outside, inside):
        assert metrics.budgets(loss) == [(1.0, "response")]
        assert metrics.summarize(columns(), loss)["logps/over_budget"] == 0.5
    assert "logps/over_budget" not in metrics.summarize(columns(), build_loss("dpo"))


def test_a_tie_is_half_right():
    """Margins -2, 0, 5 and 0: (0 + .5 + 1 + .5) / 4."""
    equal = {"chosen": [-10.0, -24.0, -30.0, -36.0], "rejected": [-12.0, -12.0, -50.0, -40.0]}
    assert metrics.summarize(columns(**equal), LOSS)["rewards/accuracies"] == pytest.approx(0.5)
    at_start = columns(**equal) | {
        "ref_chosen": columns(**equal)["chosen"],
        "ref_rejected": columns(**equal)["rejected"],
    }
    assert metrics.summarize(at_start, LOSS)["rewards/accuracies"] == 0.5


def test_without_a_reference_rewards_are_beta_times_the_log_prob():
    unknown = torch.full((4,), math.nan)
    found = metrics.summarize(columns() | {"ref_chosen": unknown, "ref_rejected": unknown}, LOSS)
    assert found["rewards/chosen"] == pytest.approx(0.5 * -25.0)
    assert found["rewards/accuracies"] == 0.75
    assert not [name for name in found if "drift" in name or "budget" in name]


def test_chosen_answers_alone_give_no_comparison():
    table = {name: column for name, column in columns().items() if "rejected" not in name}
    found = metrics.summarize(table, build_loss("nll"))
    assert {"rewards/chosen", "logps/chosen", "logps/chosen_drift"} <= set(found)
    assert not [name for name in found if "rejected" in name or "margins" in name or "accuracies" in name]


def test_unpaired_rows_by_label():
    table = {
        "completion": torch.tensor([-5.0, -7.0, -9.0]),
        "ref_completion": torch.tensor([-6.0, -7.0, -6.0]),
        "label": torch.tensor([1.0, 1.0, 0.0]),
        "tokens": torch.tensor([2.0, 3.0, 4.0]),
        "weight": torch.ones(3),
        "loss": torch.tensor([1.0, 2.0, 3.0]),
    }
    found = metrics.summarize(table, build_loss({"name": "bco", "beta": 2.0}))
    assert found["loss"] == pytest.approx(2.0)
    assert found["rewards/chosen"] == pytest.approx(1.0)
    assert found["rewards/rejected"] == pytest.approx(-6.0)
    assert found["rewards/margins"] == pytest.approx(7.0)
    assert found["logps/chosen"] == pytest.approx(-6.0)


# ---- step 0


def step_zero(off, dtype=torch.float32):
    table = columns()
    for role in ("chosen", "rejected"):
        table[f"ref_{role}"] = table[role] + off * table[f"{role}_tokens"]
    return metrics.check_step_zero(table, LOSS, torch.full((4,), math.log(2)), dtype)


@pytest.mark.parametrize(
    ("off", "dtype", "passed"),
    [
        (0.0, torch.float32, 1.0),
        (1e-6, torch.float32, 1.0),
        (1e-4, torch.float32, 0.0),
        (9e-3, torch.bfloat16, 1.0),
        (1.2e-2, torch.bfloat16, 0.0),
        (-1.2e-2, torch.bfloat16, 0.0),
    ],
)
def test_tolerance_of_step_zero(off, dtype, passed):
    found = step_zero(off, dtype)
    assert found["step0/passed"] == passed
    assert found["step0/reward_max"] == pytest.approx(0.5 * abs(off) * 10, abs=1e-5)
    assert (metrics.step_zero_warning(found) is None) == (passed == 1.0)
    assert found["step0/loss_expected"] == pytest.approx(math.log(2))


# ---- history and warnings


def test_history_merges_train_and_held_out_figures_and_forgets_the_clock():
    log = [
        {"step0/passed": 1.0, "epoch": 0.0, "step": 0},
        {"loss": 0.7, "learning_rate": 1e-3, "epoch": 0.5, "step": 5},
        {"eval_loss": 0.6, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "epoch": 0.5, "step": 5},
        {"train_runtime": 3.0, "total_flos": 1.0, "train_loss": 0.5, "epoch": 1.0, "step": 6},
    ]
    rows = metrics.history_rows(log)
    assert rows == [
        {"step": 0, "epoch": 0.0, "step0/passed": 1.0},
        {"step": 5, "epoch": 0.5, "loss": 0.7, "learning_rate": 1e-3, "eval_loss": 0.6},
    ]
    assert [list(row) for row in metrics.history_rows([dict(sorted(entry.items())) for entry in log])] == [
        list(row) for row in rows
    ]


def falling(*drifts):
    return [
        {"step": k + 1, "loss": 0.6, "logps/chosen": -100.0 + d, "logps/chosen_drift": d}
        for k, d in enumerate(drifts)
    ]


def test_a_fall_of_more_than_a_fifth_is_told_once_with_step_and_share():
    assert metrics.warnings_of(falling(-5.0, -20.0)) == []
    (warning,) = metrics.warnings_of(falling(-5.0, -21.0, -60.0))
    assert warning.startswith("step 2: the log-prob of the chosen answers has fallen by 21%")


def test_without_a_reference_the_first_line_is_the_measure():
    rows = [
        {"step": k, "loss": 1.0, "logps/chosen_mean": value} for k, value in enumerate((-2.0, -2.3, -2.5))
    ]
    (warning,) = metrics.warnings_of(rows)
    assert warning.startswith("step 2")
    assert "25%" in warning


def test_names_of_bad_rows():
    table = columns(loss=[math.nan, 1.0, math.inf, 1.0])
    assert metrics.bad_rows(table, ["a", "b", "c", "d"]) == "a, c"
    assert "overflows" in metrics.bad_rows(columns(), ["a", "b", "c", "d"])
