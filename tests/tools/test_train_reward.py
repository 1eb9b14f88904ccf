"""Reward models learn, their step is the exact weighted mean, a killed training continues with the same bytes."""

import json

import numpy as np
import pytest
import reward_models as small
import torch
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.judges.reward_model import RewardScorer
from prefopt.models.load import load_tokenizer
from prefopt.models.quiet import seeded
from prefopt.models.template import PromptTooLong
from prefopt.rules.intervals import share_interval
from prefopt.scoring.reward import (
    both_orders,
    bradley_terry,
    encode_comparison,
    encode_scalar,
    load_reward_model,
    outputs,
    read_all,
)
from prefopt.stages.judge.judge import judge
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.stages.train.settings import trainer_settings
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, rows_of, write_table
from prefopt.tools.reward.reward_figures import held_out_figures
from prefopt.tools.reward.settings import RewardConfig
from prefopt.tools.reward.train_reward import train_reward
from prefopt.training.callbacks import Bar
from prefopt.training.collate import compact
from prefopt.training.reward_trainer import RewardExample, RewardTrainer

FAST = {"learning_rate": 3e-3, "pairs_per_step": 32, "pairs_per_micro_batch": 32, "eval_steps": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.small_base(tmp_path_factory.mktemp("base"))


def trained(base, folder, table, seed=1, **settings):
    config = RewardConfig(**{**FAST, **settings})
    return train_reward(table, config, Context(seed=seed, model=base, folder=StageFolder(folder)))


@pytest.fixture(scope="module")
def scalar(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scalar")
    return folder, trained(base, folder, small.pairs_table(240), epochs=3, heldout=0.3)


@pytest.fixture(scope="module")
def pairwise(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairwise")
    return folder, trained(base, folder, small.pairs_table(240), kind="pairwise", epochs=6, heldout=0.3)


# ---- what it learns


@pytest.mark.parametrize("kind", ["scalar", "pairwise"])
def test_learns_on_pairs_it_has_not_seen(kind, request):
    folder, output = request.getfixturevalue(kind)
    quality = output.quality
    assert quality["pairs"] + quality["heldout_pairs"] == 240
    assert quality["heldout_pairs"] == output.table.num_rows > 40
    assert quality["heldout_accuracy"]["low"] > 0.75
    assert quality["history"][0]["loss"] == pytest.approx(np.log(2), abs=0.1)  # no knowledge at the start
    assert json.loads((folder / "figures.json").read_text())["ece"] == quality["ece"]
    assert (folder / "calibration.svg").read_text().startswith("<svg")
    assert "held-out accuracy" in (folder / "model" / "README.md").read_text()
    assert not list(folder.rglob("*.bin"))
    assert not (folder / "checkpoints").exists()


def test_held_out_prompts_are_not_trained_on(base, tmp_path):
    rows = small.good_and_bad(40)
    rows = [
        {**row, "id": f"{row['id']}-{k}", "prompt_id": row["prompt_id"]} for row in rows for k in range(2)
    ]
    output = trained(base, tmp_path, make_table(rows), steps=1, heldout=0.5)
    held = {row["prompt_id"] for row in rows_of(output.table)}
    assert len(held) * 2 == output.table.num_rows
    few = [text for text in output.quality["warnings"] if "pairs to train on" in text]
    assert len(few) == (output.quality["pairs"] < 50)
    given = [{**row, "split": "eval" if k < 6 else "train"} for k, row in enumerate(rows)]
    output = trained(base, tmp_path / "given", make_table(given), steps=1, heldout=0.5)
    assert [row["id"] for row in rows_of(output.table)] == [row["id"] for row in rows[:6]]
    (told,) = output.quality["warnings"]
    assert "only 3 held-out prompts" in told


def test_the_pairwise_model_is_consistent_when_answers_swap_places(pairwise):
    folder, output = pairwise
    path = folder / "model"
    tokenizer = load_tokenizer(path)
    model = load_reward_model(path, tokenizer)
    rows = small.good_and_bad(60, seed=9)
    asked = [(r["prompt"], r["chosen"], r["rejected"]) for r in rows]
    asked += [(prompt, rejected, chosen) for prompt, chosen, rejected in asked]
    ids = [encode_comparison(tokenizer, *texts, max_length=512) for texts in asked]
    values = torch.tensor(read_all(model, ids, batch_size=16))
    forward, backward = values[:60], values[60:]
    assert ((forward > 0) & (backward < 0)).double().mean() > 0.9
    assert output.quality["swap_consistency"]["mean"] > 0.9
    # sigmoid(forward) and 1 - sigmoid(backward) are two readings of one probability
    assert (torch.sigmoid(forward) + torch.sigmoid(backward) - 1).abs().mean() < 0.15


def test_rewards_in_batches_are_the_rewards_alone(scalar):
    path = scalar[0] / "model"
    tokenizer = load_tokenizer(path)
    model = load_reward_model(path, tokenizer)
    rows = small.good_and_bad(9, seed=3)
    ids = [encode_scalar(tokenizer, r, r["chosen"] * (k + 1), max_length=512) for k, r in enumerate(rows)]
    alone = [read_all(model, [one], batch_size=1)[0] for one in ids]
    assert read_all(model, ids, batch_size=4) == pytest.approx(alone, abs=1e-4)
    message = {"prompt": [{"role": "user", "content": rows[0]["prompt"]}]}
    assert encode_scalar(tokenizer, message, rows[0]["chosen"], max_length=512) == ids[0]


def test_the_scorer_reads_each_text_once_and_says_where_it_cannot(scalar):
    scorer = RewardScorer(scalar[0] / "model", max_length=64)
    rows = small.good_and_bad(3)
    asked = [{"prompt": r["prompt"], "completion": r[side]} for r in rows for side in ("chosen", "rejected")]
    found = scorer.scores([*asked, *asked, {"prompt": "apple " * 200, "completion": "x"}])
    assert found[:6] == found[6:12]
    assert found[12] is None
    assert all(found[2 * k] > found[2 * k + 1] for k in range(3))


# ---- the step


def test_losses_by_hand():
    one, two, margin = torch.tensor([1.0]), torch.tensor([-0.5]), torch.tensor([0.25])
    assert bradley_terry(one, two, margin).item() == pytest.approx(np.log1p(np.exp(-1.25)))
    wanted = (np.log1p(np.exp(-0.75)) + np.log1p(np.exp(-0.25))) / 2
    assert both_orders(one, two, margin).item() == pytest.approx(wanted)
    for loss in (bradley_terry, both_orders):
        zero = torch.zeros(1)
        assert loss(zero, zero, zero).item() == pytest.approx(np.log(2))
        far = torch.tensor([1e6])
        assert loss(far, -far, zero).item() == 0
        assert torch.isfinite(loss(-far, far, zero)).all()


@pytest.mark.parametrize("kind", ["scalar", "pairwise"])
def test_a_step_is_the_exact_weighted_mean_whatever_the_micro_batches(kind, base, tmp_path):
    tokenizer = load_tokenizer(base)
    rows = small.good_and_bad(7)
    roles = {"scalar": ("chosen", "rejected"), "pairwise": ("forward", "backward")}[kind]
    examples = []
    for k, row in enumerate(rows):
        texts = [row["chosen"] * (1 + k % 3), row["rejected"]]
        ids = [compact(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        weight, margin = 0.5 * k, 0.1 * k
        examples.append(
            RewardExample(
                row["id"], compact([]), dict(zip(roles, ids, strict=True)), {}, weight, None, margin
            )
        )
    with seeded(3):
        model = load_reward_model(base, tokenizer, new=kind)
    config = RewardConfig(kind=kind, pairs_per_step=7, pairs_per_micro_batch=1).training
    trainer = RewardTrainer(model, trainer_settings(config, tmp_path, 0, False), examples)
    share = trainer._collator()(examples)
    loss = trainer.training_step(model, share)
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])

    model.zero_grad()
    one, two = (outputs(model, [e.answers[role] for e in examples]) for role in roles)
    margin = torch.tensor([e.margin for e in examples])
    weight = torch.tensor([e.weight for e in examples])
    log = torch.nn.functional.logsigmoid
    each = -log(one - two - margin) if kind == "scalar" else -(log(one - margin) + log(-two - margin)) / 2
    direct = (weight * each).sum() / 7
    direct.backward()
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss.item() == pytest.approx(direct.item(), rel=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_weights_decide_what_is_learnt(base, tmp_path):
    """Every pair also stands there turned round; only the one with weight counts."""
    rows = small.good_and_bad(96)
    turned = [{**r, "id": r["id"] + "t", "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    table = [{**r, "weight": 0.0, "split": "train"} for r in rows] + [
        {**r, "weight": 2.0, "split": "train"} for r in turned
    ]
    held = [{**r, "weight": 1.0, "split": "eval"} for r in small.good_and_bad(30, seed=5)]
    output = trained(base, tmp_path, make_table(table + held), epochs=4)
    assert output.quality["heldout_accuracy"]["mean"] < 0.1


def test_a_margin_is_demanded(base, tmp_path):
    table = small.pairs_table(64, margin=[2.0] * 64)
    plain = trained(base, tmp_path / "a", table, steps=1, heldout=0.0)
    demanding = trained(base, tmp_path / "b", table, steps=1, heldout=0.0, margin_scale=1.0)
    assert plain.quality["history"][0]["loss"] == pytest.approx(np.log(2), abs=0.1)
    assert demanding.quality["history"][0]["loss"] == pytest.approx(np.log1p(np.exp(2.0)), abs=0.1)
    assert plain.quality["heldout_accuracy"]["mean"] is None


# ---- runs


def test_a_killed_training_continues_with_the_same_bytes(base, tmp_path, monkeypatch):
    table = small.pairs_table(96)
    settings = {"epochs": 2, "save_steps": 2, "logging_steps": 3, "heldout": 0.2}
    whole = trained(base, tmp_path / "whole", table, **settings)
    step = Bar.on_step_end

    def kill(self, args, state, control, **rest):
        step(self, args, state, control, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "on_step_end", kill)
    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path / "killed", table, **settings)
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-2" / "COMPLETE").is_file()
    monkeypatch.setattr(Bar, "on_step_end", step)
    again = trained(base, tmp_path / "killed", table, **settings)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert rows_of(again.table) == rows_of(whole.table)
    assert again.quality == whole.quality


def test_the_seed_decides(base, tmp_path):
    outputs = [
        trained(base, tmp_path / str(k), small.pairs_table(40), seed=s, steps=2) for k, s in enumerate((1, 2))
    ]
    assert rows_of(outputs[0].table) != rows_of(outputs[1].table)


def test_bad_input_is_told(base, scalar, tmp_path):
    table = small.pairs_table(8)
    with pytest.raises(PrefoptError, match="needs a model and a folder"):
        train_reward(table, RewardConfig(), Context(model=base))
    unpaired = make_table([{"id": "a", "prompt_id": "a", "prompt": "q", "completion": "c", "label": True}])
    with pytest.raises(PrefoptError, match="no pairs"):
        trained(base, tmp_path / "1", unpaired)
    long = make_table([{**row, "prompt": "apple " * 90} for row in small.good_and_bad(4)])
    with pytest.raises(PrefoptError, match=r"no pair left to train on \(prompt longer than max_length: 4"):
        trained(base, tmp_path / "2", long, max_length=40)
    with pytest.raises(PrefoptError, match="no reward model but LlamaForCausalLM"):
        RewardScorer(base)
    with pytest.raises(PrefoptError, match="unknown key 'lerning_rate', did you mean 'learning_rate'"):
        parse_config(RewardConfig, {"lerning_rate": 1}, "x")


def test_a_classifier_of_several_classes_is_refused(base, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model.save_pretrained(tmp_path)
    load_tokenizer(base).save_pretrained(tmp_path)
    with pytest.raises(PrefoptError, match="classifier of 3 classes"):
        RewardScorer(tmp_path)


def test_rows_without_weight_or_place_are_dropped_with_a_count(base, tmp_path):
    rows = small.good_and_bad(12)
    rows[0]["kept"], rows[1]["weight"] = False, float("nan")
    for row in rows:
        row.setdefault("weight", 1.0)
        row.setdefault("kept", True)
    rows[2]["prompt"] = "apple " * 400
    output = trained(base, tmp_path, make_table(rows), steps=1, max_length=96)
    assert output.dropped == {
        "not selected": 1,
        "weight is not a finite number of at least 0": 1,
        "prompt longer than max_length": 1,
    }


def test_comparison_texts_are_cut_alike_and_never_the_prompt(base):
    tokenizer = load_tokenizer(base)
    whole = encode_comparison(tokenizer, "q", "apple " * 5, "stone " * 200, max_length=4096)
    cut = encode_comparison(tokenizer, "q", "apple " * 5, "stone " * 200, max_length=100)
    assert len(cut) == 100 < len(whole)
    assert tokenizer.decode(cut).count("apple") == 5  # the short answer stays whole
    both = tokenizer.decode(encode_comparison(tokenizer, "q", "apple " * 99, "stone " * 99, max_length=100))
    assert abs(both.count("apple") - both.count("stone")) <= 1
    with pytest.raises(PromptTooLong):
        encode_comparison(tokenizer, "apple " * 100, "a" * 50, "b" * 50, max_length=60)


def test_figures_of_held_out_pairs_by_hand():
    rows = [
        {"prompt_id": "a", "probability": 0.8, "chars_chosen": 5, "chars_rejected": 3},
        {"prompt_id": "b", "probability": 0.3, "chars_chosen": 5, "chars_rejected": 3},
        {"prompt_id": "c", "probability": 0.5, "chars_chosen": 2, "chars_rejected": 3},
    ]
    figures = held_out_figures(rows, 10)
    assert figures["heldout_accuracy"] == share_interval([1.0, 0.0, 0.5])
    assert figures["longer_accuracy"] == share_interval([1.0, 1.0, 0.0])
    assert figures["prefers_longer"] == share_interval([1.0, 0.0, 0.5])


# ---- where it is used


def test_stage_02_scores_completions(scalar):
    rows = [
        {"id": f"p-{k}", "prompt_id": "p", "prompt": "apple 1", "gold": "7", "completion": text, "score": 0.5}
        for k, text in enumerate(["A: 7 good", "A: 8 bad", "river good"])
    ]
    config = JudgeConfig(kind="reward_model", model=str(scalar[0] / "model"))
    output = judge(make_table(rows), config, Context())
    found = rows_of(output.table)
    assert found[0]["score"] > found[1]["score"]
    assert [row["recorded_score"] for row in found] == [0.5] * 3
    assert [row["is_correct"] for row in found][1:] == [False, False]
    assert output.quality["reward"]["unscored"] == 0
    with pytest.raises(PrefoptError, match=r"no judge\.model"):
        judge(make_table(rows), JudgeConfig(kind="reward_model"), Context())


def test_the_verb(tmp_path):
    source = tmp_path / "pairs.parquet"
    write_table(small.pairs_table(24), source)
    words = ["train-reward", "--input", str(source), "--model", "tiny", "--output", str(tmp_path / "out")]
    words += ["--kind", "pairwise", "--steps", "2", "--pairs-per-step", "8", "--heldout", "0.4"]
    result = command(*words)
    assert result.exit_code == 0
    assert "heldout_accuracy" in result.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["stage"] == "train-reward"
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert "--margin_scale" in command("help", "train-reward").output
