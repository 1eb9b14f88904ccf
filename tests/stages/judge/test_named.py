"""Stage 02 by a check of the user's: failures are counted with the row, the run goes on, and what is done is not done again."""

import json
import re
import subprocess
import sys

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.stages.alone import run_alone
from prefopt.stages.judge import named
from prefopt.stages.judge.judge import STAGE, judge
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, rows_of

CHECK = """
from pathlib import Path

def check(prompt, completion, row):
    with Path(__file__).with_name("calls").open("a") as file:
        file.write(row["id"] + "\\n")
    if completion == "raise":
        raise ValueError("of no use")
    while completion == "loop":
        pass
    return len(completion) < 4
"""
SAID = ["abc", "abcd", "raise", "x", "loop", "raise", "long one", "y"]


QUICK = [text.replace("loop", "raise") for text in SAID]  # nothing in it takes the time of the limit


def table(said=SAID):
    return make_table([
        {"id": f"p{k // 4}-{k % 4}", "prompt_id": f"p{k // 4}", "prompt": f"q{k // 4}", "completion": text,
         "completion_index": k % 4, "finish_reason": "stop", "completion_tokens": len(text)}
        for k, text in enumerate(said)
    ])  # fmt: skip


@pytest.fixture
def checks(tmp_path):
    path = tmp_path / "my_checks.py"
    path.write_text(CHECK)
    return path


def config_of(path, **more):
    return JudgeConfig(kind="function", path=str(path), timeout_s=4.0, **more)


def test_failures_are_dropped_with_their_reason_and_the_rest_is_judged(checks, tmp_path, capfd):
    config = config_of(checks)
    done = run_alone(STAGE, config, opened(tmp_path), tmp_path / "out", Context())
    rows = rows_of(done.table)
    assert [row["completion"] for row in rows] == ["abc", "abcd", "x", "long one", "y"]
    assert [row["is_correct"] for row in rows] == [True, False, True, False, True]
    assert [row["n"] for row in rows] == [3, 3, 3, 2, 2]
    dropped = json.loads((tmp_path / "out" / "manifest.json").read_text())["dropped"]
    assert dropped == {"check raised ValueError (my_checks.py:8)": 2, "check took more than 4 s": 1}
    assert done.quality["judged_by"] == {"function": 2}
    told = capfd.readouterr().err
    assert told.count("of no use") == 1
    assert "took more than 4 s" in told
    with pytest.raises(PrefoptError, match="strict"):
        judge(table(), config, Context(strict=True))


def opened(tmp_path, said=SAID):
    from prefopt.stages.alone import Opened

    return Opened(table(said), "digest of the input")


def test_a_finished_folder_is_kept_until_the_source_changes(checks, tmp_path):
    config, out = config_of(checks), tmp_path / "out"
    for _ in range(2):
        run_alone(STAGE, config, opened(tmp_path, QUICK), out, Context())
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == len(SAID)
    checks.write_text(CHECK.replace("< 4", "< 2"))
    done = run_alone(STAGE, config, opened(tmp_path, QUICK), out, Context())
    assert [row["is_correct"] for row in rows_of(done.table)] == [False, False, True, False, True]


def test_killed_and_resumed_is_uninterrupted_byte_for_byte(checks, tmp_path, monkeypatch):
    monkeypatch.setattr(named, "PART_ROWS", 3)
    config = config_of(checks)
    run_alone(STAGE, config, opened(tmp_path, QUICK), tmp_path / "whole", Context())
    (tmp_path / "calls").unlink()
    whole = named.score_rows

    def killed(rows, *given, **more):
        if rows[0]["id"] == "p0-3":
            raise KeyboardInterrupt
        return whole(rows, *given, **more)

    monkeypatch.setattr(named, "score_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        run_alone(STAGE, config, opened(tmp_path, QUICK), tmp_path / "cut", Context())
    monkeypatch.setattr(named, "score_rows", whole)
    run_alone(STAGE, config, opened(tmp_path, QUICK), tmp_path / "cut", Context())
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(calls) == sorted(row["id"] for row in rows_of(table()))  # none twice
    parts = [StageFolder(tmp_path / name).parts() for name in ("whole", "cut")]
    assert [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]]


def test_the_command_line_takes_a_check_by_path_and_name(checks, tmp_path, monkeypatch):
    from prefopt.cli.app import call

    monkeypatch.chdir(tmp_path)
    said = [{"completion": text, "model": "m"} for text in ("abc", "abcd", "raise")]
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": "q", "completions": said}]))
    words = ["--kind", "function", "--path", "my_checks.py", "--name", "check", "--timeout-s", "5"]
    call(["judge", "--input", "rows.json", *words, "--output", "out"])
    assert StageFolder(tmp_path / "out").table()["is_correct"] == [True, False]


def test_prompts_with_constraints_are_judged_by_them():
    row = {"id": "a", "prompt_id": "p", "prompt": "q", "completion": "no mark", "completion_index": 0,
           "finish_reason": "stop", "completion_tokens": 2,
           "constraints": [{"id": "punctuation:no_comma", "kwargs": {}}, {"id": "startend:quotation", "kwargs": {}}]}  # fmt: skip
    done = judge(make_table([row]), JudgeConfig(), Context())
    (found,) = rows_of(done.table)
    assert (found["is_correct"], found["score"]) == (False, 0.5)
    assert found["followed"]["strict"] == [True, False]
    gold = judge(make_table([{**row, "gold": "7"}]), JudgeConfig(), Context())
    assert gold.quality["judged_by"] == {"verifier": 1}


def test_the_examples_of_the_docs_run(tmp_path):
    """The check of docs/verifiers.md, as a person would call it."""
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "verifiers.md").read_text()
    text = re.search(r"```python title=\"my_checks.py\"\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "my_checks.py").write_text(text)
    rows = [
        {"prompt": "q", "completion": said, "model": "m"}
        for said in ("Saturn has rings.", "A very long answer " * 9 + ".", "None", "(((")
    ]
    code = f"""
import json, prefopt
table = prefopt.judge({[{"prompt": "q", "completions": rows}]!r}, kind="function", path="my_checks.py", timeout_s=4)
print(json.dumps([[row["completion"], row["is_correct"]] for row in table]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [verdict for _, verdict in found] == [True, False]
    assert "ValueError: substring not found" in done.stderr
    assert "took more than 4 s" in done.stderr
