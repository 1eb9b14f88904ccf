"""`prefopt lm-eval`: figures of the real lm_eval on a task of a local file, and what is wrong in one line."""

import json
import math

import pytest
import torch
from command import command

import prefopt.tools.harness as harness
from prefopt.core.errors import PrefoptError
from prefopt.models.find import resolve_model
from prefopt.models.load import load_model, load_tokenizer

BUILTIN = "builtin:quickstart/base"
FOUND = {
    "results": {"t": {"alias": "t", "acc,none": 0.75, "acc_stderr,none": 0.1, "exact_match,strict": 0.5,
                      "exact_match_stderr,strict": "N/A", "sample_len": 4}},
    "groups": {"g": {"alias": "g", "acc,none": 0.7, "acc_stderr,none": 0.05}},
    "n-samples": {"t": {"original": 40, "effective": 4}},
}  # fmt: skip


def test_figures_from_what_lm_eval_gives():
    found = harness.task_figures(FOUND)
    assert found["t"]["documents"] == 4
    acc = found["t"]["metrics"]["acc"]
    assert (acc["value"], acc["low"]) == (0.75, pytest.approx(0.75 - 1.96 * 0.1, abs=1e-4))
    assert found["t"]["metrics"]["exact_match (strict)"] == {
        "value": 0.5, "standard_error": None, "low": None, "high": None,
    }  # fmt: skip
    assert list(found["t"]["metrics"]) == ["acc", "exact_match (strict)"]
    assert found["g"]["metrics"]["acc"]["value"] == 0.7


def test_without_lm_eval_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    result = command("lm-eval", BUILTIN, "--tasks", "arc_easy")
    assert result.exit_code == 2
    assert "pip install 'prefopt[eval]'" in result.output


TASK = """\
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: %s}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture
def task(tmp_path):
    pytest.importorskip("lm_eval", reason="pip install 'prefopt[eval]'")
    rows = [
        {"question": f"{a}+{b}=", "choices": [str(a + b), str(a + b + 1), str(a + b + 2)], "answer": 0}
        for a, b in ((1, 2), (3, 4), (2, 5), (1, 1))
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "sums.yaml").write_text(TASK % data)
    return folder, rows


def by_hand(rows):
    """Share of questions whose right choice has the highest log-prob behind the question."""
    path = resolve_model(BUILTIN)
    model, tokenizer = load_model(path), load_tokenizer(path)
    hits = 0
    for row in rows:
        scores = []
        for choice in row["choices"]:
            start = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
            ids = tokenizer(row["question"] + choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            scores.append(sum(float(logp[k - 1, ids[k]]) for k in range(len(start), len(ids))))
        hits += max(range(len(scores)), key=scores.__getitem__) == row["answer"]
    return hits / len(rows)


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_a_local_file_gives_what_log_probs_give(tmp_path, task, monkeypatch):
    folder, rows = task
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = ["--tasks", "sums", "--include-path", folder, "--batch-size", "2"]
    result = command("lm-eval", BUILTIN, *words, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "lm-eval.json").read_text())
    acc = found["tasks"]["sums"]["metrics"]["acc"]
    assert found["tasks"]["sums"]["documents"] == 4
    assert acc["value"] == by_hand(rows)
    assert math.isclose(acc["high"] - acc["low"], 2 * 1.959964 * acc["standard_error"], rel_tol=1e-6)
    assert "sums" in result.stdout


@pytest.mark.slow  # lists some ten thousand files of tasks
@pytest.mark.filterwarnings("ignore")
def test_unknown_tasks_are_told_with_the_nearest_name():
    pytest.importorskip("lm_eval", reason="pip install 'prefopt[eval]'")
    result = command("lm-eval", BUILTIN, "--tasks", "arc_easi")
    assert result.exit_code == 2
    assert "did you mean 'arc_easy'" in result.output


@pytest.mark.filterwarnings("ignore")
def test_lost_data_are_told_in_a_line(task):
    folder, _ = task
    (folder / "lost.yaml").write_text(TASK.replace("task: sums", "task: lost") % "/none/here.jsonl")
    with pytest.raises(PrefoptError, match=r"lm-eval stopped \(\w+: .*data sets are fetched from the hub"):
        harness.lm_eval_figures(BUILTIN, harness.LmEvalConfig(tasks=["lost"], include_path=folder))
    with pytest.raises(PrefoptError, match="no such folder"):
        harness.lm_eval_figures(BUILTIN, harness.LmEvalConfig(tasks=["lost"], include_path=folder / "none"))


def test_figures_of_an_arm_lie_in_its_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "summary.json").write_text(json.dumps({"main": "full", "arms": {}, "folders": {}}))
    assert harness.lm_eval_folder(str(run), None) == run / "lm-eval" / "full"
    assert harness.lm_eval_folder(f"{run}:base", None) == run / "lm-eval" / "base"
    assert harness.lm_eval_folder(BUILTIN, None) is None
    with pytest.raises(PrefoptError, match="lies within"):
        harness.lm_eval_folder(str(run), run / "elsewhere")
    figures = {"tasks": harness.task_figures(FOUND)}
    for _ in range(2):  # again where it wrote
        path = harness.write_lm_eval(figures, run / "lm-eval" / "full")
    assert json.loads(path.read_text()) == figures
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PrefoptError, match="holds other things"):
        harness.write_lm_eval(figures, tmp_path / "mine")
