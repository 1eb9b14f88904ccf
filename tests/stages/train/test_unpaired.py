"""Unpaired completions from the file to the verdict, and the AUC of held-out ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import run
from prefopt.stages.evaluate.singles import auc, separation
from prefopt.stages.select.select import select
from prefopt.stages.select.settings import SelectConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of
from prefopt.tables.table_rows import read_table


def completions(count: int = 30) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"what is {k % 10} plus one?"}],
            "completion": [
                {"role": "assistant", "content": f"it is {k % 10 + 1}" if k % 2 else f"no idea {k}"}
            ],
            "label": k % 2 == 1,
            "topic": f"t{k}",
        }
        for k in range(count)
    ]


def recipe(folder: Path, **train: Any) -> Recipe:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in completions()))
    settings = {
        "data": {"path": str(path), "heldout": 0.3},
        "tiny": {"vocab_size": 300},
        "reference": {"max_length": 64},
        "select": {"rule": "all"},
        "weight": {"scheme": "uniform"},
        "train": {
            "loss": "kto",
            "learning_rate": 1e-3,
            "steps": 3,
            "pairs_per_step": 8,
            "max_length": 64,
            **train,
        },
    }
    return parse_config(Recipe, settings, "test")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kto", "bco", "apo_zero_unpaired"])
def test_from_the_file_to_the_verdict(tmp_path: Path, loss: str) -> None:
    summary = run(recipe(tmp_path, loss=loss), tmp_path / "run")
    flow = {step["stage"]: step for step in summary["flow"]}
    assert flow["rank"]["skipped"] == "the input holds unpaired"
    assert flow["train"]["rows_in"] == flow["reference"]["rows_out"] > 15
    trained = json.loads((tmp_path / "run" / "07-train" / "manifest.json").read_text())["quality"]
    assert trained["step0"]["step0/passed"] == 1.0
    assert trained["eval_pairs"] > 2
    base, main = summary["separation"]["base"], summary["separation"]["main"]
    assert (base["mean"], base["desired_drift_nats"]) == (0.5, pytest.approx(0, abs=1e-3))
    assert main["desired_drift_nats"] > main["undesired_drift_nats"]
    assert "Held-out completions" in summary["verdict"][0]
    rows = rows_of(read_table(tmp_path / "run" / "04-reference" / "part-00000.parquet"))
    assert ("ref_kl_logps" in rows[0]) == (loss == "kto")
    assert rows[0]["topic"].startswith("t")


def test_a_loss_of_pairs_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(
        PrefoptError, match=r"arm 'main': the loss reads pairs.*kto, bco or apo_zero_unpaired"
    ):
        run(recipe(tmp_path, loss="dpo"), tmp_path / "run")
    assert not (tmp_path / "run" / "00-model").exists()


def test_rules_that_rank_pairs_are_refused() -> None:
    rows = [
        {"id": str(k), "prompt_id": str(k), "split": "train", **row} for k, row in enumerate(completions(10))
    ]
    with pytest.raises(
        PrefoptError, match=r"rule top ranks by the gap between two answers.*unpaired.*all or random"
    ):
        select(make_table(rows), SelectConfig(), Context())
    kept = select(make_table(rows), SelectConfig(rule="random", fraction=0.5), Context())
    assert sum(row["kept"] for row in rows_of(kept.table)) == 5
    by_number = [{**row, "quality": float(k)} for k, row in enumerate(rows)]
    best = select(
        make_table(by_number), SelectConfig(score="column", column="quality", fraction=0.2), Context()
    )
    assert {row["id"] for row in rows_of(best.table) if row["kept"]} == {"8", "9"}


def test_auc_is_the_share_of_couples_in_order() -> None:
    one, two = np.array([3.0, 1.0, 2.0]), np.array([0.0, 1.0])
    found = auc(one, two)
    assert found["mean"] == pytest.approx(5.5 / 6)  # (3,0) (3,1) (1,0) (2,0) (2,1) and half of (1,1)
    # by hand: wins per desired 1, .75, 1 and per undesired 1, 5/6
    half = 1.959963984540054 * (np.var([1, 0.75, 1], ddof=1) / 3 + np.var([1, 5 / 6], ddof=1) / 2) ** 0.5
    assert found["low"] == pytest.approx(5.5 / 6 - half)
    assert found["high"] == 1.0
    assert auc(one, two, tie=9.0)["mean"] == 0.5
    assert auc(one[:1], two) == {"mean": 1.0, "low": None, "high": None}


def test_no_separation_without_both_kinds_or_a_reference() -> None:
    row = {"kind": "unpaired", "label": True, "completion_logps": -1.0, "ref_completion_logps": -2.0}
    assert separation([row]) is None
    assert separation([row, {**row, "label": False, "ref_completion_logps": None}]) is None
    found = separation([row, {**row, "label": False, "completion_logps": -4.0}])
    assert found is not None
    assert (found["mean"], found["desired_drift_nats"], found["undesired_drift_nats"]) == (1.0, 1.0, -2.0)
