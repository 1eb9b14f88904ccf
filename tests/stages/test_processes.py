"""Every verb in two processes: the bytes of one, printed once, and an end in one line where a process fails.

One launch of `several_worker.py` (gloo, CPU) does all commands; the same commands are done here in one process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import several_worker
import torch

from prefopt.stages.evaluate import pairs as evaluate_pairs
from prefopt.stages.reference import reference

pytestmark = pytest.mark.timeout(900)
WORKER = Path(several_worker.__file__)
MODEL = ["--model", "builtin:quickstart/base"]
PARTS = 3
RECIPE = """
name: several
model: builtin:quickstart/base
data: {path: pairs.jsonl, kind: pairs, heldout: 0.25}
select: null
weight: null
train: {steps: 2, pairs_per_step: 4, eval_steps: null}
"""
ONCE = {  # name -> words; a folder of that name is what the command writes
    "d": ["data", "--input", "pairs.jsonl", "--output", "d", "--heldout", "0.25"],
    "r": ["reference", "--input", "d", *MODEL, "--output", "r"],
    "s": [
        "sample",
        "--input",
        "d",
        *MODEL,
        "--output",
        "s",
        "--n",
        "3",
        "--batch_size",
        "4",
        "--max_new_tokens",
        "6",
    ],
    "w": ["select", "--input", "r", "--output", "w", "--rule", "random"],
    "e": ["evaluate", "--input", "r", *MODEL, "--output", "e", "--pairs", "all", "--batch_size", "4"],
    "e again": ["evaluate", "--input", "r", *MODEL, "--output", "e", "--pairs", "all", "--batch_size", "4"],
}
JOBS = {
    "d": ONCE["d"],
    "broken": {"words": ONCE["r"], "fails": 1},  # its parts stay, and the next one goes on from them
    **{name: words for name, words in ONCE.items() if name != "d"},
    "bad": ["reference", "--input", "d", *MODEL, "--output", "x", "--max_lenght", "9"],
    "first": ["recipes"],
}  # fmt: skip


def write_inputs(folder):
    folder.mkdir()
    rows = [
        {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": f"{a + b + 1} or {b}"}
        for a, b in zip(range(2, 24), range(30, 8, -1), strict=True)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def launch(folder, jobs):
    """What each command printed: name -> results of the two processes."""
    (folder / "jobs.json").write_text(json.dumps({"parts": PARTS, "jobs": list(jobs.values())}))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(WORKER), "jobs.json"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: [json.loads((folder / f"{number}-{rank}.json").read_text()) for rank in range(2)]
        for number, name in enumerate(jobs)
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of the launch, and what each command printed."""
    folder = write_inputs(tmp_path_factory.mktemp("several") / "two")
    return folder, launch(folder, JOBS)


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timings.parquet", ".lock")
    }


def test_folders_are_those_of_one_process_to_the_byte(two, tmp_path, monkeypatch):
    folder = write_inputs(tmp_path / "one")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(reference, "PART_ROWS", PARTS)
    monkeypatch.setattr(evaluate_pairs, "PART_ROWS", PARTS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, words in enumerate(ONCE.values()):
            several_worker.run_job(number, words, folder)
    finally:
        torch.set_num_threads(threads)
    for name in ("d", "r", "s", "w", "e"):
        assert bytes_of(two[0] / name) == bytes_of(folder / name), name
        assert bytes_of(folder / name)
    for number, name in enumerate(ONCE):
        alone = json.loads((folder / f"{number}-0.json").read_text())
        assert alone["code"] == 0, alone
        assert two[1][name][0]["out"] == alone["out"]
        assert two[1][name][1]["out"] == two[1][name][1]["err"] == ""


def test_both_processes_made_parts(two):
    """A part belongs to rank index mod 2, so the first, which writes the timings, made every second one."""
    import pyarrow.parquet as pq

    def numbers(name, label):
        made = pq.read_table(two[0] / name / "timings.parquet")["what"].to_pylist()
        return [int(what.split()[-1]) for what in made if what.startswith(f"{label} ")]

    assert numbers("s", "sample") == [n for n in range(17) if n % 2 == 0]  # 66 rows in batches of 4
    assert numbers("e", "pairs") == [n for n in range(8) if n % 2 == 0]  # 22 rows in parts of 3
    # the first had made its own before the other failed, and none of them again
    assert numbers("r", "reference") == []


def test_a_process_that_fails_ends_the_others_with_one_line(two):
    first, second = two[1]["broken"]
    assert (first["code"], second["code"]) == (2, 2)
    lines = [line for line in first["err"].splitlines() if "error" in line]
    assert len(lines) == 1
    assert "process 2 of 2: internal fault, ValueError: as if a device had fallen off" in lines[0]
    kept = Path(re.search(r"the traceback is in (\S+),", lines[0]).group(1))
    assert "in part" in kept.read_text()
    kept.unlink()
    assert second["err"] == ""


def test_an_error_of_all_is_printed_once(two):
    first, second = two[1]["bad"]
    assert (first["code"], second["code"]) == (2, 2)
    assert first["err"].count("max_lenght") == 1
    assert second["err"] == ""


def test_a_verb_for_the_first_alone_is_done_by_it(two):
    first, second = two[1]["first"]
    assert "quickstart" in first["out"]
    assert (second["code"], second["out"], second["err"]) == (0, "", "")


@pytest.mark.slow
def test_a_run_ends_with_its_summary_and_report(tmp_path):
    folder = write_inputs(tmp_path / "two")
    first, second = launch(folder, {"run": ["run", "recipe.yaml", "--output", "run"]})["run"]
    assert (first["code"], second["code"]) == (0, 0), (first["err"], second["err"])
    assert "report.html" in first["out"]
    assert second["out"] == second["err"] == ""
    run = folder / "run"
    assert json.loads((run / "summary.json").read_text())["failed"] == {}
    assert (run / "07-train" / "model" / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
    assert not list(run.rglob(".work"))
