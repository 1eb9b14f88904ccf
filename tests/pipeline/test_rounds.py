"""Recipes of several rounds: where they lie, what they start from, and that a killed one ends with the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.models.load import model_digest
from prefopt.pipeline.recipe import Recipe, load_recipe, resolve_arms
from prefopt.pipeline.rounds import Round, check_rounds, round_home
from prefopt.pipeline.run import run
from prefopt.report import write_report
from prefopt.tables.records import rows_of
from prefopt.tables.table_rows import read_table

RECIPE = """
name: rounds
model: builtin:quickstart/base
rounds: 2
data: {path: "builtin:quickstart/train.jsonl", limit: 14, heldout: 0.3}
sample: {n: 4, temperature: 1.0, top_p: 1.0, max_new_tokens: 24, batch_size: 32}
train:
  loss: [{name: dpo, beta: 0.1}]
  learning_rate: 3.0e-4
  steps: 3
  pairs_per_step: 6
  pairs_per_micro_batch: 6
  logging_steps: 1
  save_steps: 2
evaluate: {data: {path: "builtin:quickstart/tuning.jsonl", limit: 8, heldout: 0.0}, max_new_tokens: 24, batch_size: 8}
"""
WALL_CLOCK = {"timings.parquet", "summary.json", "report.html"}


def _files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in WALL_CLOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _write(folder, text=RECIPE):
    path = folder / "rounds.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One run with an arm per reference, and its summary."""
    folder = tmp_path_factory.mktemp("rounds")
    arms = "arms:\n  one: {rounds: 1}\n  fixed: {reference_model: fixed}\n  last: {}\n"
    summary = run(load_recipe(_write(folder, RECIPE + arms)), folder / "run")
    return folder / "run", summary


def _manifest(path):
    return json.loads((path / "manifest.json").read_text())


def test_rounds_lie_where_they_should_and_share_what_is_equal(both):
    folder, summary = both
    assert (folder / "rounds" / "1" / "07-train" / "model" / "model.safetensors").is_file()
    assert (folder / "07-train" / "model" / "model.safetensors").is_file()
    assert not (folder / "arms" / "fixed" / "rounds" / "1" / "07-train").exists()  # the first round is shared
    assert not (folder / "arms" / "fixed" / "02-judge").exists()  # so are the samples of the second
    assert summary["folders"]["fixed"]["sample"] == "01-sample"
    assert summary["folders"]["fixed"]["train"] == "arms/fixed/07-train"
    assert summary["folders"]["one"]["train"] == "rounds/1/07-train"
    assert [r["round"] for r in summary["rounds"]["last"]] == [1, 2]
    assert summary["rounds"]["last"][1]["accuracy"] == summary["accuracy"]["last"]
    assert summary["rounds"]["last"][0]["accuracy"] == summary["accuracy"]["one"]
    assert summary["rounds"]["fixed"][0] == summary["rounds"]["last"][0]


def test_second_round_samples_from_the_model_of_the_first(both):
    folder, _ = both
    first, second = (rows_of(read_table(place / "01-sample" / "part-00000.parquet"))
                     for place in (folder / "rounds" / "1", folder))  # fmt: skip
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second]
    assert [row["completion"] for row in first] != [row["completion"] for row in second]
    assert {row["seed"] for row in first}.isdisjoint(row["seed"] for row in second)


def test_reference_is_the_rounds_start_or_the_first_model(both):
    folder, _ = both
    steps = {name: _manifest(folder / place / "07-train")["quality"]
             for name, place in (("first", "rounds/1"), ("last", ""), ("fixed", "arms/fixed"))}  # fmt: skip
    assert steps["first"]["step0"]["step0/passed"] == 1.0
    assert steps["last"]["step0"]["step0/passed"] == 1.0  # policy = reference at the start
    assert steps["fixed"]["step0"] == {}  # not asked: they differ from the start
    assert not any("step 0" in said for said in steps["fixed"]["warnings"])
    refs = [
        rows_of(read_table(folder / place / "04-reference" / "part-00000.parquet"))
        for place in ("", "arms/fixed")
    ]
    assert [row["id"] for row in refs[0]] == [row["id"] for row in refs[1]]
    assert all(a["ref_chosen_logps"] != b["ref_chosen_logps"] for a, b in zip(*refs, strict=True))
    models = [model_digest(folder / place / "07-train" / "model") for place in ("rounds/1", "", "arms/fixed")]
    assert len(set(models)) == 3


def test_report_shows_every_round(both):
    folder, summary = both
    page = write_report(folder).read_text()
    assert 'id="rounds"' in page
    shown = f"{100 * summary['rounds']['last'][0]['accuracy']['mean']:.1f}%"
    assert shown in page[page.index('id="rounds"') :]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_rounds_end_byte_for_byte_like_uninterrupted_ones(tmp_path):
    recipe = _write(tmp_path)
    run(load_recipe(recipe), tmp_path / "whole")
    driver = Path(__file__).parents[1] / "support" / "kill_driver.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(driver), str(recipe), "killed", "14"]
    killed = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    assert int(killed.stdout.strip().splitlines()[-1]) >= 4
    expected, found = _files(tmp_path / "whole"), _files(tmp_path / "killed")
    assert "rounds/1/07-train/model/model.safetensors" in found
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


@pytest.mark.slow
def test_shipped_recipe_runs_at_reduced_size(tmp_path):
    small = {"data": {"limit": 12, "heldout": 0.3}, "sample": {"n": 4}, "train": {"steps": 2, "pairs_per_step": 4, "pairs_per_micro_batch": 4},
             "evaluate": {"data": {"limit": 6}, "batch_size": 8}}  # fmt: skip
    recipe = Path(__file__).parents[2] / "src" / "prefopt" / "recipes" / "rounds.yaml"
    summary = run(load_recipe(recipe, small), tmp_path / "run")
    assert {arm: len(entries) for arm, entries in summary["rounds"].items()} == {"fixed": 3, "last": 3}
    assert all(entry["accuracy"]["n"] == 6 for entries in summary["rounds"].values() for entry in entries)


# ---- refusals and small parts


@pytest.mark.parametrize(
    ("settings", "kind", "columns", "part"),
    [
        ({}, "pairs", ["gold"], "resample: true"),
        ({}, "completions", ["gold"], "resample: true"),
        ({}, "unpaired", [], "the data is unpaired"),
        ({}, "prompts", [], "column gold"),
        ({"resample": True}, "pairs", ["chosen"], "column gold"),
        ({"sample": None}, "prompts", ["gold"], "sample is set to null"),
        ({"sample": {"engine": "fake"}}, "prompts", ["gold"], "sample.engine fake does not write"),
        ({"sample": {"models": [{"engine": "fake"}]}}, "prompts", ["gold"], "none of them the trained one"),
        (
            {"sample": {"models": [None, {"engine": "fake", "name": "model"}]}},
            "prompts",
            ["gold"],
            "two models are named 'model'",
        ),
        ({"train": None}, "prompts", ["gold"], "train is set to null"),
        ({"rank": {"strategy": "given"}}, "prompts", ["gold"], "rank.strategy given"),
        ({"train": {"lora": {"merge": False}}}, "prompts", ["gold"], "train.lora.merge: true"),
    ],
)
def test_what_cannot_be_sampled_again_is_refused_in_one_line(settings, kind, columns, part):
    recipe = parse_config(Recipe, {"rounds": 3, **settings}, "r")
    with pytest.raises(PrefoptError) as caught:
        check_rounds(resolve_arms(recipe), kind, columns)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    check_rounds(resolve_arms(recipe.model_copy(update={"rounds": 1})), kind, columns)


def test_resample_lets_recorded_data_go_on():
    arms = resolve_arms(parse_config(Recipe, {"rounds": 2, "resample": True}, "r"))
    check_rounds(arms, "completions", ["gold"])


def test_seeds_and_folders_of_a_single_round_are_as_without_rounds(tmp_path):
    assert Round(1, tmp_path, "k").seed_name("sample") == "sample"
    assert Round(2, tmp_path, "k").seed_name("sample") == "sample round 2"
    assert round_home(tmp_path, 1, 1) == tmp_path
    assert round_home(tmp_path, 2, 3) == tmp_path / "rounds" / "2"
