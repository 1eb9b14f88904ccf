"""Checks in a file of the user's: what goes wrong costs its row alone."""

import time

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.verify import Failure, Score, VerifyConfig, score_rows, verifier_digests

CHECK = """
import os, sys
import prefopt

def check(prompt, completion, row):
    print("looking at", completion)
    os.write(1, b"[1, 2]\\n")
    if completion == "raise":
        return {}["gone"]
    if completion == "loop":
        while True:
            pass
    if completion == "die":
        os._exit(3)
    if completion == "exit":
        sys.exit("enough")
    if completion == "odd":
        return "yes"
    if completion == "score":
        return prefopt.Score(is_correct=True, score=0.25, answer=row["note"])
    if completion == "number":
        return 2
    if completion == "none":
        return None
    return completion == prompt

def lists(prompts, completions, rows):
    if len(rows) > 1 and "bad" in completions:
        raise ValueError("no batch with bad")
    if completions == ["bad"]:
        raise ValueError("bad")
    return [len(completions) > 1 or c == "alone" for c in completions]
"""


@pytest.fixture
def checks(tmp_path):
    path = tmp_path / "my_checks.py"
    path.write_text(CHECK)
    return path


def run(path, *completions, **more):
    rows = [
        {"id": f"r{k}", "prompt": "good", "completion": text, "note": "n"}
        for k, text in enumerate(completions)
    ]
    return score_rows(rows, VerifyConfig(kind="function", path=str(path), **more))


def test_a_failing_row_costs_itself_alone(checks, capfd):
    said = ["good", "raise", "loop", "die", "exit", "odd", "score", "number", "none", "bad"]
    start = time.monotonic()
    found = run(checks, *said, timeout_s=4.0)
    assert time.monotonic() - start < 60
    by_text = dict(zip(said, found, strict=True))
    assert by_text["good"] == Score(True, 1.0)
    assert by_text["bad"] == Score(False, 0.0)
    assert by_text["score"] == Score(True, 0.25, "n")
    assert by_text["number"] == Score(None, 2.0)
    assert by_text["none"] == Score()
    line = CHECK.splitlines().index('        return {}["gone"]') + 1
    assert by_text["raise"].reason == f"check raised KeyError (my_checks.py:{line})"
    assert by_text["loop"].reason == "check took more than 4 s"
    assert by_text["die"].reason == "check ended its process (ended with exit code 3)"
    assert "SystemExit" in by_text["exit"].reason
    assert "TypeError" in by_text["odd"].reason
    assert "gave 'yes'" in by_text["odd"].text
    out, err = capfd.readouterr()
    assert "looking at" not in out
    assert "my_checks.py says: looking at good" in err


def test_a_batch_that_fails_is_asked_row_by_row(checks):
    found = run(checks, "a", "b", name="lists", batch=True)
    assert [score.is_correct for score in found] == [True, True]
    found = run(checks, "alone", "bad", "b", name="lists", batch=True)
    assert [isinstance(score, Failure) for score in found] == [False, True, False]
    assert [found[0].is_correct, found[2].is_correct] == [True, False]


def test_a_check_that_fails_on_every_row_is_an_error(checks):
    with pytest.raises(PrefoptError, match=r"my_checks\.py:\d+: check: KeyError: 'gone' \(row r0\)"):
        run(checks, "raise", "raise")


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (None, "check", "cannot be read"),
        ("def check(:", "check", r"c\.py:1: no Python"),
        ("def chek(): pass", "check", "no function 'check', did you mean 'chek'"),
        ("import nowhere_at_all\ndef check(p, c, r): pass", "check", r"c\.py:1: cannot be loaded: ModuleNotFoundError"),
        ("check = 3", "check", "cannot be loaded: LookupError: it has no function"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, text, name, says):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PrefoptError, match=says) as error:
        run(path, "x", name=name)
    assert "\n" not in str(error.value)


def test_the_source_is_part_of_the_key_and_a_changed_file_is_read_anew(checks):
    config = VerifyConfig(kind="function", path=str(checks))
    before = verifier_digests(config)
    assert run(checks, "good")[0].is_correct is True
    checks.write_text("def check(prompt, completion, row):\n    return False\n")
    assert verifier_digests(config) != before
    assert run(checks, "good")[0].is_correct is False
    in_sum = VerifyConfig(kind="sum", parts=[{"kind": "function", "path": str(checks)}])
    assert set(verifier_digests(config)) <= set(verifier_digests(in_sum))
