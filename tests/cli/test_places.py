"""No verb removes or replaces what is not its own, wherever it is told to write: one line, exit code 2, nothing touched."""

import json
import os
from pathlib import Path

import pytest

from prefopt.cli.app import main
from prefopt.cli.verbs import VERBS

MODEL = ("sample", "reference", "train", "train-reward", "evaluate")
THEIRS = ("model/config.json", "store/store.json", "checkpoints/x", "part-00000.parquet", "manifest.json", "report.html",
          "figures.json", "check.json", "judge-check.json", "verdicts.jsonl", "losses.svg")  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder with data, a model and files of the names that prefopt writes; the working folder."""
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in THEIRS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _refused(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr().err
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert (end.value.code, len(lines)) == (2, 1), told
    assert "Traceback" not in told
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("output", [".", "model", "link", "pairs.jsonl", "model/new"])
def test_verbs(home, capsys, verb, output):
    os.symlink(home, home / "link")
    before = _tree(home)
    model = ["--model", "model"] if verb in MODEL else []
    if output == "model/new" and not model:
        return
    line = _refused(capsys, verb, "--input", "pairs.jsonl", "--output", output, *model)
    assert "name" in line
    assert _tree(home) == before


@pytest.mark.parametrize(
    "words",
    [
        ["check", "pairs.jsonl", "--output", "."],
        ["check", "pairs.jsonl", "--output", "model"],
        ["judge-check", "--input", "pairs.jsonl", "--judge", "simulated", "--output", "."],
        ["judge-check", "--input", "pairs.jsonl", "--judge", "simulated", "--output", "store"],
        ["win-rate", "pairs.jsonl", "--baseline", "pairs.jsonl", "--judge", "simulated", "--output", "."],
        ["win-rate", "pairs.jsonl", "--baseline", "pairs.jsonl", "--judge", "simulated", "--output", "store"],
        ["mt-bench", "pairs.jsonl", "--output", "."],
        ["mt-bench", "pairs.jsonl", "--output", "model"],
        ["lm-eval", "base", "--tasks", "arc_easy", "--output", "store"],
        ["lm-eval", "base", "--tasks", "arc_easy", "--output", "base"],
        ["advise", "--data", "pairs.jsonl", "--output", "."],
        ["advise", "--data", "pairs.jsonl", "--output", "store"],
        ["losses", "plot", "dpo", "--output", "losses.svg"],
        ["losses", "plot", "dpo", "--output", "model"],
        ["run", "quickstart", "--output", "."],
        ["run", "quickstart", "--output", "model"],
        ["run", "quickstart", "--data", "pairs.jsonl", "--output", "pairs.jsonl"],
        ["report", "."],
        ["merge-adapter", "--adapter", "adapter", "--output", "adapter"],
        ["merge-adapter", "--adapter", "adapter", "--model", "base", "--output", "base"],
        ["merge-adapter", "--adapter", "adapter", "--model", "base", "--output", "."],
        ["suite", "plot", "--input", "manifest.json", "--write", "report.html"],
        ["suite", "plot", "--input", "manifest.json", "--write", "manifest.json"],
        ["verify", "."],
    ],
    ids=" ".join,
)
def test_other_verbs(home, capsys, words):
    for name in ("adapter/adapter_config.json", "base/config.json"):
        (home / name).parent.mkdir()
        (home / name).write_text("{}")
    before = _tree(home)
    _refused(capsys, *words)
    assert _tree(home) == before


def _ok(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0


def test_a_stage_writes_again_where_it_wrote_and_nowhere_else(home, capsys):
    _ok("data", "--input", "pairs.jsonl", "--output", "a")
    _ok("select", "--input", "a", "--output", "b", "--rule", "all")
    before = _tree(home)
    for output in ("a", "a/b", "b/../a"):  # the input, within it, the input in other words
        assert "input" in _refused(capsys, "select", "--input", "a", "--output", output, "--rule", "all")
    assert "stage 'select'" in _refused(
        capsys, "weigh", "--input", "a", "--output", "b", "--scheme", "uniform"
    )
    _refused(capsys, "data", "--input", "a/part-00000.parquet", "--output", "a")
    _refused(capsys, "select", "--input", "b", "--output", "b", "--fraction", "nonsense")
    assert _tree(home) == before
    (home / "b" / "notes.txt").write_text("mine")
    _ok("select", "--input", "a", "--output", "b", "--rule", "random", "--fraction", "0.5")
    assert "rule, fraction changed" in capsys.readouterr().err
    assert (home / "b" / "notes.txt").read_text() == "mine"


def test_checks_write_again_where_they_wrote(home, capsys):
    for _ in range(2):
        _ok("check", "pairs.jsonl", "--output", "checked")
        _ok("judge-check", "--input", "pairs.jsonl", "--judge", "simulated", "--output", "judged")
        _ok("losses", "plot", "dpo", "--output", "new.svg")
    _refused(capsys, "judge-check", "--input", "pairs.jsonl", "--judge", "simulated", "--output", "checked")
    assert sorted(os.listdir("checked")) == [".owner.json", "check.json", "manifest.json", "pairs.jsonl"]
    _ok("verify", "checked")
    (home / "judged" / "verdicts.parquet").write_bytes(b"cut")
    with pytest.raises(SystemExit) as end:
        main(["verify", "judged"])
    assert end.value.code == 1
    assert "verdicts.parquet has 3 bytes" in capsys.readouterr().out
