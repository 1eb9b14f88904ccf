"""Stage 02: verdicts, classes and statistics of every prompt, and how they compare with recorded ones."""

import math

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.rules.intervals import wilson
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.judge.judge import ADDS, STAGE, judge, prompt_statistics
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of
from prefopt.verify import VerifyConfig

STATISTICS = ("n", "n_correct", "n_incorrect", "n_unparsed", "n_distinct", "answer_entropy", "majority_share")


def completions(*prompts, **columns):
    """A table from (gold, completions) per prompt."""
    rows = [
        {"id": f"p{i}-{k}", "prompt_id": f"p{i}", "prompt": f"q{i}", "gold": gold, "completion": text,
         "completion_index": k, "finish_reason": "stop", "completion_tokens": len(text), **columns}
        for i, (gold, texts) in enumerate(prompts)
        for k, text in enumerate(texts)
    ]  # fmt: skip
    return make_table(rows)


def judged(table, **settings):
    output = judge(table, JudgeConfig(**settings), Context())
    return rows_of(output.table), output.quality


def test_statistics_of_one_prompt_by_hand():
    texts = ["A: 7", "A: 7.0", "A: 8", "A: 9", "I give up", "A: 8", "A: $7", "A:"]
    rows, quality = judged(completions(("7", texts)))
    assert [row["answer"] for row in rows] == ["7", "7", "8", "9", None, "8", "7", None]
    assert [row["answer_class"] for row in rows] == [0, 0, 1, 2, -1, 1, 0, -1]
    assert [row["is_correct"] for row in rows] == [True, True, False, False, False, False, True, False]
    assert [row["score"] for row in rows] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    entropy = -(3 / 6 * math.log(3 / 6) + 2 / 6 * math.log(2 / 6) + 1 / 6 * math.log(1 / 6))
    for row in rows:
        assert {name: row[name] for name in STATISTICS} == {
            "n": 8,
            "n_correct": 3,
            "n_incorrect": 5,
            "n_unparsed": 2,
            "n_distinct": 3,
            "answer_entropy": pytest.approx(entropy),
            "majority_share": 3 / 8,
        }
    assert quality["unparsed_share"] == 2 / 8


def test_all_columns_are_there_and_the_users_own_too():
    output = judge(completions(("7", ["A: 7"]), topic="sums"), JudgeConfig(), Context())
    assert set(STAGE.reads) | set(ADDS) | {"topic"} <= set(output.table.column_names)


def test_unparsed_counts_as_wrong_and_as_no_class():
    assert prompt_statistics([-1, -1], [False, False]) == {
        "n": 2, "n_correct": 0, "n_incorrect": 2, "n_unparsed": 2, "n_distinct": 0, "answer_entropy": 0.0, "majority_share": 0.0,
    }  # fmt: skip


def test_without_gold_there_are_classes_but_no_verdicts():
    rows, quality = judged(completions((None, ["A: 1", "A: 1.0", "A: 2", "x"])))
    assert [row["answer_class"] for row in rows] == [0, 0, 1, -1]
    assert {row["is_correct"] for row in rows} == {row["score"] for row in rows} == {None}
    first = rows[0]
    assert (first["n"], first["n_correct"], first["n_incorrect"], first["majority_share"]) == (
        4,
        None,
        None,
        0.5,
    )
    assert quality["accuracy"]["mean"] is None
    assert quality["judged_by"] == {"none": 1}
    assert quality["pass_at_k"] == {}


def test_figures_by_hand():
    rights = [4, 2, 0, 0, 1]
    table = completions(*[("1", ["A: 1"] * c + ["A: 2"] * (4 - c)) for c in rights])
    _, quality = judged(table)
    assert quality["difficulty"] == {"0": 2, "1": 1, "2": 1, "4": 1}
    assert (quality["unsolved"], quality["all_right"]) == (2, 1)
    low, high = wilson(3, 5)  # the first sample of each prompt
    assert quality["accuracy_one"] == pytest.approx({"mean": 0.6, "low": low, "high": high, "n": 5})
    assert quality["accuracy"]["mean"] == pytest.approx(7 / 20)
    assert quality["pass_at_k"]["1"] == pytest.approx(7 / 20)
    assert quality["pass_at_k"]["4"] == pytest.approx(3 / 5)
    assert (quality["completion_tokens_mean"], quality["finish_length_share"]) == (4, 0)


def test_recorded_flags_are_compared_with_the_verifier_which_wins():
    table = completions(("7", ["A: 7", "A: 7", "A: 8", "A: 8"]))
    flags = [True, False, True, False]
    rows = [{**row, "is_correct": flag} for row, flag in zip(rows_of(table), flags, strict=True)]
    found, quality = judged(make_table(rows))
    assert [row["is_correct"] for row in found] == [True, True, False, False]
    assert [row["recorded_is_correct"] for row in found] == flags
    assert quality["agreement"] == {"agree": 2, "verifier_alone": 1, "recorded_alone": 1, "rate": 0.5}
    found, quality = judged(make_table(rows), kind="recorded")
    assert [row["is_correct"] for row in found] == flags
    assert [row["score"] for row in found] == [1.0, 0.0, 1.0, 0.0]
    assert (found[0]["n_correct"], quality["agreement"]) == (2, None)


def test_recorded_scores_are_used_without_gold():
    rows = [
        {**row, "score": float(k), "gold": None}
        for k, row in enumerate(rows_of(completions(("7", ["a", "b"]))))
    ]
    found, quality = judged(make_table(rows))
    assert [row["score"] for row in found] == [0.0, 1.0]
    assert {row["is_correct"] for row in found} == {None}
    assert quality["judged_by"] == {"recorded": 1}


@pytest.mark.parametrize(
    ("kind", "gold", "message"),
    [("verifier", None, "no row has a gold"), ("recorded", "1", "no row has `is")],
)
def test_a_judge_without_anything_to_judge_by_is_an_error_line(kind, gold, message):
    with pytest.raises(PrefoptError, match=message):
        judged(completions((gold, ["A: 1"])), kind=kind)


def test_two_gold_answers_of_one_prompt_are_an_error_line():
    rows = rows_of(completions(("1", ["A: 1", "A: 2"])))
    rows[1]["gold"] = "2"
    with pytest.raises(PrefoptError, match="'p0' has several gold answers"):
        judged(make_table(rows))


def test_settings_of_the_verifier_are_used():
    table = completions(("18", ["so 18", "so <<9>> 17"]))
    assert [r["is_correct"] for r in judged(table)[0]] == [False, False]
    assert [r["is_correct"] for r in judged(table, verifier=VerifyConfig(last_number=True))[0]] == [
        True,
        False,
    ]
    choice = completions(("B", ["I take (b) B", "C"]))
    assert [r["is_correct"] for r in judged(choice, verifier=VerifyConfig(extract="choice"))[0]] == [
        True,
        False,
    ]


def test_order_of_rows_is_kept_when_prompts_are_interleaved():
    rows = rows_of(completions(("1", ["A: 1", "A: 2"]), ("2", ["A: 1", "A: 2"])))
    mixed = [rows[i] for i in (2, 0, 3, 1)]
    found, _ = judged(make_table(mixed))
    assert [row["id"] for row in found] == [row["id"] for row in mixed]
    assert [row["is_correct"] for row in found] == [False, True, True, False]


def test_recorded_answers_of_gsm8k_are_judged_as_their_authors_did(shared_data):
    table = data(None, DataConfig(path=str(shared_data / "gsm8k" / "completions.jsonl.gz")), Context()).table
    rows, quality = judged(table)
    assert (quality["prompts"], quality["completions"]) == (500, 2000)
    assert quality["agreement"]["rate"] == 1.0
    # accuracies as the data's README gives them
    found = {name: round(figures["mean"], 3) for name, figures in quality["by_model"].items()}
    assert found == {
        "6b_finetuning": 0.228,
        "6b_verification": 0.396,
        "175b_finetuning": 0.344,
        "175b_verification": 0.568,
    }
    assert quality["all_right"] == 63
    assert {row["model"] for row in rows} == set(found)


def test_another_model_under_the_same_name_is_other_work(tmp_path, monkeypatch):
    import prefopt.models.load as models

    monkeypatch.setattr(models, "model_digest", lambda path: (path / "weights").read_text())
    config = JudgeConfig(kind="reward_model", model=str(tmp_path))
    (tmp_path / "weights").write_text("first")
    before = STAGE.outside(config)
    (tmp_path / "weights").write_text("second")
    assert before == ["first"]
    assert STAGE.outside(config) == ["second"]
    assert STAGE.outside(JudgeConfig(kind="verifier")) == []
