"""A run killed with SIGKILL at any moment and started again ends with the same tables and models, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
name: killed
model: builtin:quickstart/base
data: {path: "builtin:quickstart/train.jsonl", limit: 16, heldout: 0.3}
sample: {n: 4, temperature: 1.0, top_p: 1.0, max_new_tokens: 24, batch_size: 32}
select: {rule: top, fraction: 0.8}
train:
  loss: [{name: dpo, beta: 0.1}, {name: nll, scale: 0.1}]
  learning_rate: 1.0e-4
  steps: 5
  pairs_per_step: 8
  pairs_per_micro_batch: 4
  save_steps: 2
  logging_steps: 1
evaluate: {data: {path: "builtin:quickstart/tuning.jsonl", limit: 12, heldout: 0.0}, max_new_tokens: 24, batch_size: 8}
arms:
  dpo: {weight: {scheme: uniform}, train: {steps: 2}}
  full: {}
"""
WALL_CLOCK = {"timings.parquet", "summary.json"}


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in WALL_CLOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _run(script: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1100
    )


@pytest.mark.slow  # tests/chaos kills a run in the fast suite
@pytest.mark.timeout(1200)
def test_killed_run_ends_byte_for_byte_like_an_uninterrupted_one(tmp_path):
    recipe = tmp_path / "killed.yaml"
    recipe.write_text(RECIPE)
    whole = _run(["-m", "prefopt", "run", str(recipe), "--output", "whole"], tmp_path)
    assert whole.returncode == 0, whole.stderr
    driver = Path(__file__).parents[1] / "support" / "kill_driver.py"
    killed = _run([str(driver), str(recipe), "killed"], tmp_path)
    assert killed.returncode == 0, killed.stderr
    assert int(killed.stdout.strip().splitlines()[-1]) >= 10
    expected, found = _files(tmp_path / "whole"), _files(tmp_path / "killed")
    expected = {name: data for name, data in expected.items() if name != "report.html"}
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
