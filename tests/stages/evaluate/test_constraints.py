"""Stage 08 on IFEval's form: prompts with constraints, four accuracies, kinds one by one; majorities of several samples."""

import json

import pytest

import prefopt.stages.evaluate.evaluate as evaluate_module
from prefopt.core.errors import PrefoptError
from prefopt.engines.fake import FakeEngine
from prefopt.rules.intervals import share_interval
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.evaluate.evaluate import evaluate
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of

NO_PAIRS = make_table([], ("id", "prompt_id", "prompt", "split", "chosen", "rejected"))
ROWS = [
    {"key": 1, "prompt": "p0", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]},
    {"key": 2, "prompt": "p1", "instruction_id_list": ["length_constraints:number_words"],
     "kwargs": [{"num_words": 3, "relation": "less than", "keywords": None}]},
    {"key": 3, "prompt": "p2", "instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]},
]  # fmt: skip


def answering(monkeypatch, answers):
    monkeypatch.setattr(evaluate_module, "open_engine", lambda *_: FakeEngine(answers))


def run(**settings):
    return evaluate(NO_PAIRS, EvaluateConfig(max_new_tokens=40, **settings), Context())


def test_a_file_of_ifeval_gives_strict_and_loose_accuracy_of_prompts_and_constraints(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "ifeval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    answering(monkeypatch, {"p0": ['Well, sure:\n"So, it is."'], "p1": ["one two"]})
    done = run(data=DataConfig(path=str(path), heldout=0.0), greedy=False)
    rows = {row["prompt"]: row for row in rows_of(done.table)}
    assert set(rows) == {"p0", "p1"}  # the third names no constraint that there is
    assert rows["p0"]["followed"]["strict"] == [False, False]
    assert rows["p0"]["followed"]["loose"] == [False, True]
    found = done.quality["constraints"]["sampled"]
    assert found["prompt_strict"] == found["prompt_loose"] == share_interval([0.0, 1.0], ["a", "b"])
    assert found["instruction_strict"] == share_interval([0.0, 0.0, 1.0], ["a", "a", "b"])
    assert found["instruction_loose"]["mean"] == pytest.approx(2 / 3)
    assert found["constraints"] == 3
    assert found["kinds"]["startend:quotation"] == {"n": 1, "strict": 0.0, "loose": 1.0}
    assert done.quality["accuracy"]["mean"] == 0.5
    assert done.quality["completions"]["sampled"]["unparsed_share"] == 0.0
    assert "constraint is unknown" in capsys.readouterr().err + json.dumps(done.dropped)


def test_missing_packages_are_told_before_anything_is_written(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "langdetect" else real(name)
    )
    asked = [{"id": "language:response_language", "kwargs": {"language": "de"}}]
    prompts = make_table([{"id": "p", "prompt_id": "p", "prompt": "p", "constraints": asked}])

    def never(*_):
        raise AssertionError("nothing may be written")

    monkeypatch.setattr(evaluate_module, "open_engine", never)
    with pytest.raises(PrefoptError, match=r"prefopt\[checks\]"):
        evaluate(NO_PAIRS, EvaluateConfig(), Context(inputs={"prompts": prompts}))


def test_the_majority_of_several_samples(monkeypatch):
    prompts = make_table([{"id": p, "prompt_id": p, "prompt": p, "gold": "1"} for p in ("p0", "p1")])
    answering(monkeypatch, {"p0": ["A: 1"], "p1": ["A: 2"]})
    done = evaluate(NO_PAIRS, EvaluateConfig(n=4, greedy=False), Context(inputs={"prompts": prompts}))
    assert {k: value["mean"] for k, value in done.quality["maj_at_k"].items()} == {
        "1": 0.5,
        "2": 0.5,
        "4": 0.5,
    }
    assert done.quality["maj_at_k"]["4"]["n"] == 2
    single = evaluate(NO_PAIRS, EvaluateConfig(greedy=False), Context(inputs={"prompts": prompts}))
    assert single.quality["maj_at_k"] is None


def test_a_check_that_fails_costs_its_completion(monkeypatch, tmp_path):
    (tmp_path / "c.py").write_text("def check(p, c, r):\n    return 1 / len(c.strip('x')) > 0\n")
    answering(monkeypatch, {"p0": ["xx"], "p1": ["yes"]})
    prompts = make_table([{"id": p, "prompt_id": p, "prompt": p} for p in ("p0", "p1")])
    verifier = {"kind": "function", "path": str(tmp_path / "c.py")}
    config = EvaluateConfig(greedy=False, verifier=verifier)
    done = evaluate(NO_PAIRS, config, Context(inputs={"prompts": prompts}))
    assert [row["prompt_id"] for row in rows_of(done.table)] == ["p1"]
    assert done.dropped == {"check raised ZeroDivisionError (c.py:2)": 1}
