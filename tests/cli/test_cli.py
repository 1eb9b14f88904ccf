"""The command line: overrides, one-line errors with exit code 2, late imports."""

import json
import subprocess
import sys

import pytest

from prefopt.cli import app as cli
from prefopt.cli.verbs import STAGE_OF, VERBS
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_overrides
from prefopt.pipeline.run import STAGES


def _main(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["prefopt", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def _pairs(tmp_path, count=12):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("words", "tree"),
    [
        (["--train.beta", "0.05"], {"train": {"beta": 0.05}}),
        (["--learning-rate=1e-5"], {"learning_rate": 1e-5}),
        (["--a.b.c", "[1, 2]", "--a.d", "x"], {"a": {"b": {"c": [1, 2]}, "d": "x"}}),
        (["--clip", "null"], {"clip": None}),
        (["--shift", "-1"], {"shift": -1}),
    ],
)
def test_overrides(words, tree):
    assert parse_overrides(words) == tree


@pytest.mark.parametrize("words", [["beta"], ["--beta"], ["--a", "--b", "1"], ["--a", "1", "--a.b", "2"]])
def test_bad_overrides_are_errors(words):
    with pytest.raises(PrefoptError):
        parse_overrides(words)


def test_importing_the_package_and_its_command_line_is_light():
    code = "import sys, prefopt.cli.app; print([m for m in ('torch', 'transformers', 'datasets', 'sympy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_are_numbered_in_order_and_every_verb_is_there():
    assert [stage.number for stage in STAGES] == list(range(9))
    assert {STAGE_OF.get(verb, verb) for verb in VERBS} == {
        "train-reward",
        *(stage.name for stage in STAGES),
    }


def test_data_then_select_alone(monkeypatch, capsys, tmp_path):
    code, out, err = _main(
        monkeypatch, capsys, "data", "--input", _pairs(tmp_path), "--output", tmp_path / "d"
    )
    assert (code, err.count("error")) == (0, 0), err
    assert "12 rows" in out
    words = (
        "select",
        "--input",
        tmp_path / "d",
        "--output",
        tmp_path / "kept",
        "--rule",
        "random",
        "--fraction",
        "0.5",
    )
    code, out, err = _main(monkeypatch, capsys, *words)
    assert code == 0, err
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert manifest["config"]["rule"] == "random"
    assert manifest["rows_in"] == manifest["rows_out"] == 12


BAD = [
    (["run", "missing.yaml"], "missing.yaml"),
    (["select", "--input", "none.jsonl", "--output", "o"], "none.jsonl"),
    (["select", "--input", "{pairs}", "--output", "o"], "prefopt reference"),
    (["select", "--input", "{pairs}", "--output", "o", "--rul", "top"], "did you mean 'rule'"),
    (["weigh", "--input", "{pairs}", "--output", "o", "--scheme", "nope"], "scheme"),
    (["reference", "--input", "{pairs}", "--output", "o"], "--model"),
    (["reference", "--input", "{pairs}", "--output", "o", "--model", "nowhere/at/all"], "nowhere/at/all"),
    (["train", "--input", "{pairs}", "--output", "o", "--model", "{folder}"], "{folder}"),
    (["run", "{recipe}"], "--data"),
    (["help", "selct"], "did you mean 'select'"),
]


@pytest.mark.parametrize(
    ("words", "part"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, words, part):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("select: {rule: all}\n")
    places = {"pairs": _pairs(tmp_path), "folder": tmp_path, "recipe": recipe}
    monkeypatch.chdir(tmp_path)
    code, _, err = _main(monkeypatch, capsys, *(word.format(**places) for word in words))
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert part.format(**places) in lines[0]
    assert "Traceback" not in err


def test_a_process_of_several_parts_from_the_group_at_its_end(tmp_path, monkeypatch):
    import torch.distributed as dist

    def train_alone(words):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)

    monkeypatch.setattr(cli, "call", train_alone)
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 0
    assert not dist.is_initialized()
