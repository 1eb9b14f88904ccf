"""Judges that read a model, asked by stage 03: what ranking by them comes to."""

import importlib.util
from pathlib import Path

import pytest

from prefopt.judges.reward_model import RewardScorer
from prefopt.stages.rank.rank import rank
from prefopt.stages.rank.settings import RankConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of

_spec = importlib.util.spec_from_file_location("test_models", Path(__file__).with_name("test_models.py"))
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
base, scalar, pairwise = models.base, models.scalar, models.pairwise  # fixtures
M = 4


def completions(prompts=6):
    rows = [r for seed in range(M) for r in models.small.good_and_bad(prompts, seed)]
    return [
        {"id": f"p{k % prompts}-{k // prompts}", "prompt_id": f"p{k % prompts}", "prompt": f"apple {k % prompts}",
         "completion": row["chosen"] * (1 + k % 3)}
        for k, row in enumerate(rows)
    ]  # fmt: skip


def ranked(kind, path, **settings):
    judge = {"kind": kind, "model": str(path), "tie_band": 0.0, **settings}
    return rank(make_table(completions()), RankConfig(strategy="ipr", judge=judge), Context(seed=1))


def test_ipr_by_a_scalar_reward_is_its_best_against_its_worst(scalar):
    output = ranked("reward_model", scalar)
    rows = completions()
    scores = dict(zip((r["id"] for r in rows), RewardScorer(scalar).scores(rows), strict=True))
    for pair in rows_of(output.table):
        mine = [r["id"] for r in rows if r["prompt_id"] == pair["prompt_id"]]
        assert pair["chosen_id"] == max(mine, key=scores.get)
        assert pair["rejected_id"] == min(mine, key=scores.get)
    assert output.table.num_rows == 6
    assert output.quality["swap_consistency"] is None  # asked in one order


@pytest.mark.parametrize(("kind", "model"), [("local", "base"), ("pairwise_model", "pairwise")])
def test_models_that_read_both_answers_are_asked_in_both_orders_and_averaged(kind, model, request):
    output = ranked(kind, request.getfixturevalue(model))
    assert output.quality["calls"] == 2 * output.quality["comparisons"]
    assert output.quality["tie_rate"] == 0  # the mean of two probabilities is hardly ever one half
