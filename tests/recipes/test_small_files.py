"""Files of a few rows through the packaged recipes: a report that says what it is worth, never a traceback."""

import json

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run
from prefopt.report.page import write_report

CITIES = ("Paris", "Rome", "Lima", "Oslo", "Cairo")


def pairs(count, prompts=None):
    return [
        {
            "prompt": f"Which city is number {k % (prompts or count)}?",
            "chosen": f"It is {CITIES[k % 5]}, {k}.",
            "rejected": f"Perhaps {CITIES[k % 3]} or none, {k}.",
        }
        for k in range(count)
    ]


def singles(count, prompts=None, label=None):
    return [
        {
            "prompt": f"Which city is number {k % (prompts or count)}?",
            "completion": f"It is {CITIES[k % 5]}, {k}.",
            "label": k % 2 == 0 if label is None else label,
        }
        for k in range(count)
    ]


def answers(count):
    sides = [("ground_truth", 0), ("m", 0), ("m", 1), ("m", 3)]
    return [
        {
            "prompt": f"What is {k} + {k}?",
            "gold": str(2 * k),
            "completions": [
                {"model": model, "completion": f"{model} {off}: the answer is {2 * k + off}"}
                for model, off in sides
            ],
        }
        for k in range(count)
    ]


def reported(recipe, rows, folder, **over):
    """Summary and page of a run on the rows, with the smoke model as small as it goes."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {"data": {"path": str(folder / "rows.jsonl")}, "tiny": {"warmup_steps": 1, "vocab_size": 300}}
    summary = run(load_recipe(recipe, {**small, **over}), folder / "run")
    return summary, write_report(folder / "run").read_text(encoding="utf-8")


def test_pairs_of_two_prompts_with_an_arm_that_reads_no_reference(tmp_path, caplog, capsys):
    arms = {"dpo": {"select": {"rule": "all"}}, "sft": {"select": {"rule": "all"}, "train": {"loss": "nll"}}}
    summary, page = reported("pairs", pairs(4, 2), tmp_path, arms=arms)
    # supervised fine-tuning needs no pass of the reference, and is measured on the tokens that the other arm is
    assert "reference" in summary["folders"]["dpo"]
    assert "reference" not in summary["folders"]["sft"]
    skipped = json.loads((tmp_path / "run" / "04-reference.skipped.json").read_text())
    assert skipped["skipped"] == "neither loss nor selection nor weights read reference log-probs"
    # one prompt is held out: means, and no interval anywhere
    for arm in ("base", "dpo", "sft"):
        found = summary["pair_accuracy"][arm]
        assert found["n"] == 1
        assert found["pairs"] == 2
        assert found["low"] is found["high"] is None
    assert summary["paired"]["sft"]["dpo"]["pair_accuracy"]["low"] is None
    said = caplog.text + capsys.readouterr().err
    for text in ("only 2 pairs to train on", "only 1 held-out prompt"):
        assert text in said
        assert any(text in warning for warning in summary["warnings"])
        assert text in page
    assert "None" not in page.replace("None of", "")


def test_single_answers_of_one_prompt_and_one_label(tmp_path, caplog, capsys):
    summary, page = reported("unpaired", singles(3, 1, label=False), tmp_path)
    said = caplog.text + capsys.readouterr().err
    for text in ("all 3 labels are alike (undesired)", "all rows ask one prompt"):
        assert text in said
        assert any(text in warning for warning in summary["warnings"])
        assert text in page


def test_a_single_row_cannot_be_set_against_another(tmp_path):
    with pytest.raises(
        PrefoptError, match=r"no second one; give more rows, or take apo_zero_unpaired or bco"
    ):
        reported("unpaired", singles(1), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        *(("pairs", pairs(count)) for count in (2, 3, 7, 60)),
        *(("pairs", pairs(count, 1)) for count in (2, 12)),
        *(("unpaired", singles(count)) for count in (2, 5, 60)),
        *(("unpaired", singles(2, label=label)) for label in (True, False)),
        *(("gsm8k", answers(count)) for count in (1, 2, 6)),
    ],
)
def test_every_recipe_ends_in_a_report(recipe, rows, tmp_path):
    summary, page = reported(recipe, rows, tmp_path)
    assert any("to train on (fewer than 50)" in text for text in summary["warnings"])
    assert "to train on (fewer than 50)" in page


@pytest.mark.slow
def test_a_held_out_row_that_stands_alone_has_a_mismatched_answer(tmp_path):
    """Without the reference pass the answers are drawn in training; a single held-out row takes one of the others."""
    over = {"reference": None, "train": {"lora": {"r": 2}, "steps": 1}, "data": {"heldout": 0.1}}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in singles(6)))
    over["data"]["path"] = str(tmp_path / "rows.jsonl")
    summary = run(
        load_recipe("unpaired", {**over, "tiny": {"warmup_steps": 1, "vocab_size": 300}}), tmp_path / "run"
    )
    assert summary["arms"]["main"]["steps"] == 1
