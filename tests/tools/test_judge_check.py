"""`prefopt judge-check`: the figures of a simulated judge are those it was built with."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import prefopt.tools.judge_check as judge_check_module
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.judges import Verdict
from prefopt.tables.context import Context
from prefopt.tools.judge_check import JudgeCheckConfig, judge_check, print_judge_check, write_judge_check

SLOPE, BIAS = 1.5, 1.0


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _config(**values):
    simulated = {"column": "quality", "slope": SLOPE, "first_bias": BIAS, **values.pop("simulated", {})}
    judge = {"kind": "simulated", "simulated": simulated}
    return parse_config(JudgeCheckConfig, {"judge": judge, **values}, "test")


def _pairs(tmp_path, count=1500, longer=0.3, seed=0):
    """Pairs of known qualities; `longer`: share whose chosen answer is the longer one. Returns path and differences."""
    rng = np.random.default_rng(seed)
    better, worse = np.sort(rng.standard_normal((count, 2)), axis=1)[:, ::-1].T
    rows = []
    for i in range(count):
        sizes = (20, 10) if i < longer * count else (10, 20)
        rows.append({
            "id": f"r{i}", "prompt": f"question {i}", "chosen": f"good {i} " + "x" * sizes[0],
            "rejected": f"evil {i} " + "x" * sizes[1], "quality_chosen": better[i], "quality_rejected": worse[i],
            "subset": "odd" if i % 2 else "even",
        })  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path), better - worse


def test_pairs_of_one_prompt_give_no_interval(tmp_path):
    """Three pairs, six calls, one prompt: of other prompts nothing is known."""
    rows = [
        {"prompt": "q", "chosen": f"good {i}", "rejected": f"bad {i}", "quality_chosen": 2.0, "quality_rejected": -2.0}
        for i in range(3)
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = judge_check(str(path), _config()).figures
    for name in ("accuracy", "single_call_agreement", "always_longest"):
        assert found[name]["n"] == 1
        assert found[name]["low"] is None


def test_figures_are_those_of_the_simulated_judge(tmp_path):
    source, difference = _pairs(tmp_path)
    found = judge_check(source, _config()).figures
    first = np.array([_sigmoid(SLOPE * d + BIAS) for d in difference])  # chosen named when it stands first
    second = np.array([_sigmoid(SLOPE * d - BIAS) for d in difference])  # ... when it stands second
    both, neither = float((first * second).mean()), float(((1 - first) * (1 - second)).mean())
    error = 4 * 0.5 / math.sqrt(len(difference))  # four standard errors at most
    assert found["pairs"] == 1500
    assert found["calls"] == 3000
    assert found["swap_consistency"] == pytest.approx(both + neither, abs=error)
    assert found["tie_rate"] == pytest.approx(1 - found["swap_consistency"])
    assert found["first_slot_rate"] == pytest.approx(float((first + 1 - second).mean()) / 2, abs=error)
    assert found["agreement"]["mean"] == pytest.approx(both / (both + neither), abs=error)
    assert found["agreement"]["low"] < both / (both + neither) < found["agreement"]["high"]
    assert found["single_call_agreement"]["mean"] == pytest.approx(
        float((first + second).mean()) / 2, abs=error
    )
    assert found["accuracy"]["mean"] == pytest.approx(both + (1 - both - neither) / 2, abs=error)
    assert found["always_longest"]["mean"] == pytest.approx(0.3)
    # quality knows nothing of length: agreement is the same on both sides, and the longer wins where it is right
    assert found["agreement_longer"]["mean"] == pytest.approx(found["agreement"]["mean"], abs=2 * error)
    assert found["agreement_shorter"]["mean"] == pytest.approx(found["agreement"]["mean"], abs=2 * error)
    right, decided = found["agreement"]["mean"], found["decided"]
    assert found["ties"] + decided == 1500
    assert found["longer_wins"]["mean"] == pytest.approx(0.3 * right + 0.7 * (1 - right), abs=error)
    agree = right * decided / 1500
    assert found["kappa"] == pytest.approx(
        (agree - 0.5 * decided / 1500) / (1 - 0.5 * decided / 1500), abs=0.02
    )
    assert {name: group["pairs"] for name, group in found["groups"].items()} == {"even": 750, "odd": 750}


def test_a_judge_that_guesses_and_one_that_knows(tmp_path):
    source, _ = _pairs(tmp_path, 400)
    guess = judge_check(source, _config(simulated={"slope": 0.0, "first_bias": 0.0})).figures
    assert guess["agreement"]["low"] < 0.5 < guess["agreement"]["high"]
    assert abs(guess["kappa"]) < 0.1
    knows = judge_check(source, _config(simulated={"slope": 1e6, "first_bias": 0.0})).figures
    assert knows["agreement"]["mean"] == knows["swap_consistency"] == knows["kappa"] == 1.0
    assert knows["tie_rate"] == 0.0
    assert knows["first_slot_rate"] == 0.5
    slot = judge_check(source, _config(simulated={"slope": 0.0, "first_bias": 1e6})).figures
    assert slot["first_slot_rate"] == 1.0
    assert slot["tie_rate"] == 1.0
    assert slot["agreement"]["mean"] is None
    ties = judge_check(source, _config(simulated={"tie_rate": 1.0})).figures
    assert ties["decided"] == 0
    assert ties["accuracy"]["mean"] == 0.5


def test_same_seed_same_verdicts_and_kept_files(tmp_path):
    source, _ = _pairs(tmp_path, 30)
    found = judge_check(source, _config(), Context(seed=3))
    again = judge_check(source, _config(), Context(seed=3))
    other = judge_check(source, _config(), Context(seed=4))
    assert found == again
    assert found.verdicts != other.verdicts
    path = write_judge_check(found, tmp_path / "out")
    assert json.loads(path.read_text()) == found.figures
    assert (tmp_path / "out" / "verdicts.parquet").is_file()


def test_hostile_names_do_not_reach_the_terminal(tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"p {i}", "chosen": "yes", "rejected": "no no", "quality_chosen": 1, "quality_rejected": 0,
             "subset": ["\x1b[31mred", "[b]x[/b]"][i % 2]} for i in range(4)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print_judge_check(judge_check(str(path), _config()).figures)
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    assert "[b]x[/b]" in out


def test_files_without_pairs_are_refused(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "p", "completions": [{"text": "a"}, {"text": "b"}]}) + "\n")
    with pytest.raises(
        PrefoptError, match=r"holds completions; judge-check needs pairs.*prefopt rank --judge"
    ):
        judge_check(str(path), _config())


def test_a_judge_without_any_verdict_is_an_error_line(tmp_path):
    source, _ = _pairs(tmp_path, 4)  # no gold answers: nothing for the verifier to go by
    words = ["judge-check", "--input", source, "--judge", "verifier", "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "prefopt", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "judge 'verifier' has no verdict on any of the 4 pairs (no gold answer)" in lines[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out" / "judge-check.json").exists()


def test_a_judge_whose_answers_cannot_be_read_is_an_error_line(tmp_path, monkeypatch):
    class Mute:
        name, both_orders, averages, cacheable = "mute", True, False, True

        def compare(self, batch, seed):
            return [Verdict("unparsed", text="well [b]\x1b[31m\nwho knows") for _ in batch]

        def describe(self):
            return {"kind": "mute"}

    monkeypatch.setattr(judge_check_module, "open_judge", lambda *_: Mute())
    source, _ = _pairs(tmp_path, 3)
    with pytest.raises(PrefoptError, match=r"judge 'mute': none of its 12 answers names a winner") as caught:
        judge_check(source, _config())
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("llmbar/preference.jsonl", 302),
        ("pandalm/preference.jsonl", 535),
        ("mt_bench/labelled_pairs.jsonl", 129),
    ],
)
def test_labelled_sets_as_they_are(shared_data, name, pairs):
    config = parse_config(JudgeCheckConfig, {"judge": "simulated"}, "test")
    found = judge_check(str(shared_data / name), config).figures
    assert found["pairs"] == pairs
    # quality is drawn without regard to the labels: the judge is worth nothing
    assert found["agreement"]["mean"] == pytest.approx(0.5, abs=0.15)


def test_llmbar_by_subset_on_the_command_line(shared_data, tmp_path):
    words = [
        "judge-check",
        "--input",
        str(shared_data / "llmbar" / "preference.jsonl"),
        "--judge",
        "simulated",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "prefopt", *words, "--output", "out"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "judge-check.json").read_text())
    assert found["pairs"] == 302
    assert found["always_longest"]["mean"] == pytest.approx(0.27, abs=0.01)
    assert len(found["groups"]) == 5
    assert "adv_neighbor" in done.stdout
    bad = subprocess.run(
        [sys.executable, "-m", "prefopt", *words[:-1], "simulatd"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert bad.returncode == 2
    assert "did you mean 'simulated'" in bad.stderr
