"""The benchmarks run to the end on a tiny model, and the page shows what their JSON says."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """benchmarks/NAME.py by name, as the scripts see each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("common", "arms", "train", "reference", "gpu")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def performance():
    spec = importlib.util.spec_from_file_location("performance_tool", ROOT / "tools" / "performance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(common, *arguments):
    return common.parser("about").parse_args(list(arguments))


def test_options_choose_tables(modules, tmp_path):
    common, tables = modules["common"], list(modules["train"].TABLES)
    assert common.chosen_tables(options(common, "--quick"), tables) == ["1:1"]
    assert not set(common.chosen_tables(options(common), tables)) & set(common.REAL)
    assert common.chosen_tables(options(common, "--data", str(tmp_path)), tables) == tables
    assert common.chosen_tables(options(common, "--only", "orpo/32k, 1:1"), tables) == ["1:1", "orpo/32k"]
    with pytest.raises(SystemExit, match="no such table"):
        common.chosen_tables(options(common, "--only", "2:1"), tables)
    with pytest.raises(SystemExit, match="give --data"):
        common.chosen_tables(options(common, "--only", "tldr"), tables)


def test_results_are_written_after_each_table_and_added_to(modules, tmp_path):
    common, path = modules["common"], tmp_path / "out.json"
    results = common.Results(path, {"steps": 1, "data": str(tmp_path / "sets"), "loss": "dpo/x"}, keep=False)
    results.add("4:1", {"ratio_pairs_per_s": common.interval([1.0])})
    written = json.loads(path.read_text())
    assert written["ratio_pairs_per_s"] is None
    assert written["settings"] == {
        "steps": 1,
        "data": "sets",
        "loss": "dpo/x",
    }  # where files lie is nobody's matter
    common.Results(path, {}, keep=True).add("1:1", {"ratio_pairs_per_s": common.interval([3.0, 9.0, 4.0])})
    found = json.loads(path.read_text())
    assert next(iter(found)) == "ratio_pairs_per_s"
    assert found["ratio_pairs_per_s"] == 4.0
    assert list(found["tables"]) == ["4:1", "1:1"]


def fake_run(task):
    """Rates by micro-batch, falling from run to run, and losses by step."""
    rate = {1: 2.0, 2: 4.0, 4: 3.0}.get(task.get("micro_batch"), 12.0)
    size = 20.0 if task["tool"] == "prefopt" else 80.0
    return {"pairs_per_s": rate, "tokens_per_s": 9.0, "peak_memory_mib": size, "losses": [0.7, 0.6]}


def test_a_table_compares_with_the_fastest_micro_batch_in_every_round(modules, monkeypatch):
    train, common = modules["train"], modules["common"]
    calls = []

    def in_child(function, task):
        if function is train.references:
            return {"logps": []}
        calls.append(task.get("micro_batch", "ours"))
        return fake_run(task)

    monkeypatch.setattr(common, "in_child", in_child)
    table = {
        "loss": "dpo", "own_order": False, "pairs_per_step": 4, "micro_batches": (1, 2, 4), "finalists": 2,
        "repeats": 3,
    }  # fmt: skip
    found = train.measure(table)
    assert calls == [1, 2, 4, "ours", 2, 4, "ours", 2, "ours", 2]
    assert found["best_trl"] == "trl/2"
    assert found["ratio_pairs_per_s"]["runs"] == [3.0, 3.0, 3.0]
    assert found["ratio_peak_memory"]["median"] == 0.25
    assert found["losses_agree"]


@pytest.mark.parametrize("loss", ["dpo", "orpo", "simpo"])
def test_our_arm_trains_and_tells(modules, loss, monkeypatch):
    train, common = modules["train"], modules["common"]
    monkeypatch.setattr(common, "reset_peak", lambda: None)  # Linux alone
    task = {
        "tool": "prefopt", "loss": loss, "mix": "warm-up", "shape": common.TINY, "steps": 1, "pairs_per_step": 2,
        "own_order": False, "data": None, "learning_rate": 1e-3, "optimizer": "adamw_torch", "use_cpu": True,
        "max_tokens_per_row": None, "folder": "unused",
    }  # fmt: skip
    task["reference"] = train.references(task)["logps"] if loss == "dpo" else None
    found = train.run(task)
    assert len(found["losses"]) == 2
    assert found["pairs_per_s"] > 0
    if loss == "dpo":
        assert found["losses"][0] == pytest.approx(math.log(2), abs=1e-5)
        assert found["losses"][1] != found["losses"][0]


def test_useful_flops_by_hand(modules):
    shape = {"width": 4, "inner": 8, "layers": 3, "heads": 2, "kv_heads": 1, "vocabulary": 10}
    pair = {"prompt_ids": [1] * 5, "chosen_ids": [1] * 3, "rejected_ids": [1]}
    weights = 3 * (2 * 16 + 2 * 4 * 2 + 3 * 4 * 8)  # q and o; k and v; mlp
    seen = 15 + (2 * 5 + 3)  # 5 prompt tokens among themselves; 2 read tokens of the longer answer
    expected = 6 * (weights * 7 + 4 * 10 * 4 + 2 * 3 * 4 * seen)
    assert modules["gpu"].useful_flops(shape, [pair]) == expected


@pytest.mark.slow
def test_gpu_benchmark_runs_on_the_cpu_without_newer_functions(modules, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(torch.nn.functional, "linear_cross_entropy", raising=False)  # torch 2.11 has none
    path = tmp_path / "gpu.json"
    modules["gpu"].main(["--cpu-smoke", "--no-trl", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["trl"] == "left out by --no-trl"
    assert list(found["tables"]) == ["tiny float32", "tiny bfloat16"]
    for table in found["tables"].values():
        assert table["arms"]["prefopt/sdpa"]["mfu"]["median"] > 0
        assert "CUDA" in table["arms"]["prefopt/flex"]["skipped"]


def test_an_arm_that_fails_says_why(modules):
    gpu = modules["gpu"]
    broken = gpu.attempt({"device": "cpu", "shape": {}, "dtype": "float32"}, [], [])
    assert broken["error"].startswith("KeyError")
    assert gpu.summary([broken], 1.0, 1.0) == broken
    assert gpu.compare({"prefopt/sdpa": [broken], "trl/4": [broken]}) == {}


def test_page_and_figure_are_those_of_the_json(performance):
    text = performance.PAGE.read_text(encoding="utf-8")
    assert performance.page(text) == text, "run python tools/performance.py"
    readme = performance.README.read_text(encoding="utf-8")
    assert performance.readme(readme) == readme, "run python tools/performance.py"
    assert performance.FIGURE.read_text(encoding="utf-8") == performance.figure()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "tables"),
    [
        ("train.py", "1:1,orpo/32k,simpo/152k,own-order,curves/dpo,curves/orpo,curves/simpo"),
        ("reference.py", "1:1,152k"),
    ],
)
def test_tiny_run_against_trl(script, tables, tmp_path, performance, monkeypatch):
    pytest.importorskip("trl")
    path = tmp_path / script.replace(".py", ".json")
    command = [
        sys.executable,
        BENCHMARKS / script,
        "--tiny",
        "--only",
        tables,
        "--threads",
        "1",
        "--json",
        path,
    ]
    subprocess.run(command, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, timeout=1100)
    found = json.loads(path.read_text())
    assert ",".join(found["tables"]) == tables
    assert found["ratio_pairs_per_s"] > 0
    agree = [table["losses_agree"] for table in found["tables"].values() if "losses_agree" in table]
    assert all(agree)
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    page = performance.train_table() if script == "train.py" else performance.reference_table()
    assert page.count("\n|") >= 3
