"""The quickstart's claim, seed by seed: a real gain in sampled accuracy, greedy not lost; and the study's arithmetic."""

import importlib.util
import json
from pathlib import Path

import pytest

from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_gains_over_base_and_keeps_greedy(tmp_path, seed):
    summary = run(load_recipe("quickstart", {"seed": seed}), tmp_path)
    accuracy = summary["accuracy"]
    assert accuracy["full"]["n"] >= 1000
    assert accuracy["full"]["low"] > accuracy["base"]["high"]
    assert summary["paired"]["full"]["base"]["greedy"]["low"] >= -0.08


def test_the_committed_study_is_what_its_script_computes():
    spec = importlib.util.spec_from_file_location("study", ROOT / "studies" / "quickstart.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    found = json.loads((ROOT / "studies" / "results" / "quickstart.json").read_text())
    assert len(found["seeds"]) >= 5
    for arm, values in found["accuracy"].items():
        assert values == study.over_seeds(values["by_seed"]), arm
    differences = [
        a - b
        for a, b in zip(
            found["accuracy"]["full"]["by_seed"], found["accuracy"]["sft"]["by_seed"], strict=True
        )
    ]
    assert found["main_against"]["sft"]["accuracy"]["by_seed"] == pytest.approx(differences)


def test_t_interval_by_hand():
    spec = importlib.util.spec_from_file_location("study", ROOT / "studies" / "quickstart.py")
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    result = study.over_seeds([1.0, 2.0, 3.0])
    assert result["mean"] == 2.0
    assert result["standard_error"] == pytest.approx(3**-0.5)
    assert result["high"] - result["mean"] == pytest.approx(4.303 * 3**-0.5)
