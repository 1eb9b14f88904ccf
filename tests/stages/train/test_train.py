"""Stage 07: settings, what becomes of bad rows, the model directory, byte-equal resume."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.models.load import load_model, load_tokenizer
from prefopt.models.template import encode_pair
from prefopt.recipes.quickstart.build import make_tokenizer
from prefopt.scoring.logprobs import score
from prefopt.stages.reference.reference import reference
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.stages.train.settings import TRACKERS, TrainConfig, with_best
from prefopt.stages.train.train import STAGE, train
from prefopt.tables.context import Context
from prefopt.tables.folder import WORK, StageFolder
from prefopt.tables.records import make_table, rows_of

SMALL = {
    "learning_rate": 1e-3,
    "pairs_per_step": 8,
    "pairs_per_micro_batch": 4,
    "max_length": 64,
    "logging_steps": 2,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model directory: two layers of width 32, the quickstart's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "small"
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=96, tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    return path


@pytest.fixture(scope="module")
def pairs(base):
    """Rows as 06-weight leaves them: messages, reference log-probs, counts, weights, a held-out part."""
    tokenizer, model = load_tokenizer(base), load_model(base)
    rng = random.Random(0)
    rows = []
    for index in range(25):
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        row = {
            "id": f"p{index}",
            "prompt_id": f"p{index}",
            "prompt": [{"role": "user", "content": f"{a}+{b}"}],
            "split": "eval" if index % 5 == 4 else "train",
            "chosen": [{"role": "assistant", "content": f"{a}+{b}={a + b}"}],
            "rejected": [{"role": "assistant", "content": f"{a + b + rng.randint(1, 9)}"}],
            "weight": 1.0,
        }
        encoded = encode_pair(tokenizer, row, max_length=64)
        answers = (encoded.chosen_ids, encoded.rejected_ids)
        logps = score(model, [(encoded.prompt_ids, ids) for ids in answers], 512)
        row |= {"ref_chosen_logps": logps[0], "ref_rejected_logps": logps[1]}
        row |= {"chosen_tokens": len(answers[0]), "rejected_tokens": len(answers[1])}
        rows.append(row)
    return rows


def run_stage(base, rows, folder, *, seed=1, strict=False, **settings):
    config = parse_config(TrainConfig, {**SMALL, **settings}, "test")
    context = Context(seed=seed, model=base, folder=StageFolder(Path(folder)), strict=strict)
    return train(make_table(rows), config, context)


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-5}, "did you mean 'learning_rate'"),
        ({"loss": "dop"}, "unknown loss 'dop'"),
        ({"loss": [{"name": "dpo", "beat": 0.1}]}, "'beat'"),
        ({"loss": [{"name": "dpo", "beta": -1}]}, "beta"),
        ({"loss": "nll", "beta": 0.1}, "no term of the loss has one"),
        ({"steps": 0}, "steps"),
        ({"keep": "best", "eval_steps": None}, "eval_steps"),
        ({"loss": "kto", "keep": "best", "best_by": "rewards/accuracies"}, "best_by to loss"),
        ({"lora": {"rank": 4}}, "lora.rank"),
        ({"report_to": "mlfloww"}, "report_to"),
        ({"push_to_hub": "no slash"}, "push_to_hub"),
    ],
)
def test_bad_settings_are_one_line(settings, message):
    with pytest.raises(PrefoptError, match=message) as caught:
        parse_config(TrainConfig, settings, "recipe.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("recipe.yaml: ")


def test_beta_goes_into_every_term_that_has_one():
    config = TrainConfig(loss=[{"name": "dpo", "beta": 0.1}, {"name": "nll", "scale": 0.2}], beta=0.7)
    assert [term.hyper.get("beta") for term in config.loss_sum.terms] == [0.7, None]
    assert TrainConfig(loss="dpo").loss_sum.beta == 0.1


def test_learning_rate_depends_on_what_is_trained():
    assert TrainConfig().peak_rate == 1e-6
    assert TrainConfig(lora={}).peak_rate == 5e-6
    assert TrainConfig(lora={}, learning_rate=1e-4).peak_rate == 1e-4


def test_every_setting_has_a_reader():
    source = Path(__file__).resolve().parents[3] / "src" / "prefopt" / "stages" / "train"
    text = (source / "train.py").read_text() + (source / "settings.py").read_text()
    unread = [name for name in TrainConfig.model_fields if text.count(f".{name}") == 0]
    assert unread == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "train.optimizer"),
        ({"pairs_per_micro_batch": 3}, "does not divide"),
        ({"lora": {"target_modules": ["nothing"]}}, "target_modules"),
    ],
)
def test_settings_that_only_the_trainer_can_judge(base, pairs, tmp_path, settings, message):
    with pytest.raises(PrefoptError, match=message):
        run_stage(base, pairs, tmp_path, **settings)


def test_best_weights_need_held_out_pairs(base, pairs, tmp_path):
    with pytest.raises(PrefoptError, match="held-out"):
        run_stage(base, [row for row in pairs if row["split"] == "train"], tmp_path, keep="best")


# ---- rows


def test_what_the_stage_gives(base, pairs, tmp_path, capfd):
    result = run_stage(
        base, pairs, tmp_path, epochs=2, eval_steps=2, loss=[{"name": "dpo"}, {"name": "budget"}]
    )
    history = rows_of(result.table)
    assert [row["step"] for row in history] == [0, 1, 2, 4, 6]
    assert set(STAGE.adds) <= set(result.table.column_names)
    assert history[-1]["loss"] < history[1]["loss"]
    assert [row["step"] for row in history if row["eval_loss"] is not None] == [2, 4, 6]
    assert result.quality["pairs"] == 20
    assert result.quality["eval_pairs"] == 5
    assert result.quality["step0"]["step0/passed"] == 1.0
    assert [text[:13] for text in result.quality["warnings"]] == ["only 20 pairs", "only 5 held-o"]
    json.dumps(result.quality)  # the manifest holds it
    trained, before = load_model(tmp_path / "model"), load_model(base)
    difference = [
        (p - q).detach().abs().max() for p, q in zip(trained.parameters(), before.parameters(), strict=True)
    ]
    assert float(max(difference)) > 1e-4
    assert trained.config.use_cache == before.config.use_cache
    assert load_tokenizer(tmp_path / "model").chat_template == load_tokenizer(base).chat_template
    assert not (tmp_path / "checkpoints").exists()
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "README.md",
    } <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "Writing model shards" not in shown.err


def test_model_card_says_licence_data_loss_and_figures(base, pairs, tmp_path):
    run_stage(base, pairs, tmp_path, steps=2, dataset="owner/sums", loss=[{"name": "simpo", "beta": 2.0}])
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    for expected in (
        "owner/sums",
        "`simpo`",
        "beta = 2",
        "| pairs | 20 |",
        "eval_rewards/accuracies",
        "- torch ",
    ):
        assert expected in card
    assert str(tmp_path) not in card
    run_stage(base, pairs, tmp_path / "named", steps=1, license="apache-2.0")
    assert "license: apache-2.0\n" in (tmp_path / "named" / "model" / "README.md").read_text()


def test_pairs_without_weights_or_reference_train_where_the_loss_allows(base, pairs, tmp_path):
    bare = [{key: row[key] for key in ("id", "prompt", "chosen", "rejected")} for row in pairs]
    result = run_stage(base, bare, tmp_path, steps=2, loss="simpo")
    assert result.quality["eval_pairs"] == 0
    with pytest.raises(PrefoptError, match="prefopt reference"):
        run_stage(base, bare, tmp_path / "dpo", steps=2)


def test_bad_rows_are_dropped_with_a_reason_or_refused_when_strict(base, pairs, tmp_path):
    rows = [dict(row) for row in pairs]
    rows[0]["weight"] = float("nan")
    rows[1]["weight"] = -1.0
    rows[2]["kept"] = False
    rows[3]["prompt"] = [{"role": "user", "content": "1+" * 40 + "1"}]
    rows[5]["prompt"] = [{"role": "system", "content": "no such role in the template"}]
    result = run_stage(base, rows, tmp_path, steps=1)
    assert result.dropped == {
        "weight is not a finite number of at least 0": 2,
        "not selected": 1,
        "prompt longer than max_length": 1,
        "refused by the chat template": 1,
    }
    assert result.quality["pairs"] == 15
    with pytest.raises(PrefoptError, match=r"row 'p0'.*weight.*--strict"):
        run_stage(base, rows, tmp_path / "strict", steps=1, strict=True)


def test_nothing_to_train_on_is_an_error(base, pairs, tmp_path):
    with pytest.raises(PrefoptError, match="no pair left"):
        run_stage(base, [dict(row, split="eval") for row in pairs], tmp_path)
    with pytest.raises(PrefoptError, match="weight 0"):
        run_stage(base, [dict(row, weight=0.0) for row in pairs], tmp_path)
    with pytest.raises(PrefoptError, match="--output DIR"):
        train(make_table(pairs), TrainConfig(), Context(model=base))


def test_a_reference_of_other_lengths_is_refused(base, pairs, tmp_path):
    rows = [dict(row, chosen_tokens=row["chosen_tokens"] + (k == 3)) for k, row in enumerate(pairs)]
    with pytest.raises(PrefoptError, match=r"row 'p3': chosen has \d+ tokens.*max_length"):
        run_stage(base, rows, tmp_path)


def test_rows_longer_than_the_model_name_the_limit(base, pairs, tmp_path):
    rows = [dict(row) for row in pairs]
    rows[0] = {**rows[0], "chosen": [{"role": "assistant", "content": "1+1=2;" * 30}], "chosen_tokens": None}
    with pytest.raises(PrefoptError, match=r"row 'p0'.*96 positions.*max_length"):
        run_stage(base, rows, tmp_path, max_length=256)


def test_wrong_reference_is_told(base, pairs, tmp_path, caplog):
    rows = [dict(row, ref_chosen_logps=row["ref_chosen_logps"] - 3.0) for row in pairs]
    with caplog.at_level(logging.WARNING, "prefopt.train"):
        result = run_stage(base, rows, tmp_path, steps=1)
    assert "prefopt reference" in caplog.text
    assert result.quality["step0"]["step0/passed"] == 0.0
    assert any(text.startswith("step 0") for text in result.quality["warnings"])


def test_pairs_become_single_answers_for_unpaired_losses(base, pairs, tmp_path):
    result = run_stage(base, pairs, tmp_path, steps=2, loss="kto", pairs_per_step=16)
    assert result.quality["pairs"] == 40
    assert result.quality["step0"]["step0/passed"] == 1.0
    assert {"rewards/chosen", "rewards/rejected"} <= set(result.quality["final"])


def test_mismatched_completions_of_the_reference_pass_are_taken(base, pairs, tmp_path, monkeypatch):
    """With kl columns training draws nothing itself; without them it does, once, with other figures."""
    from prefopt.stages.reference.reference import reference
    from prefopt.stages.train import train as stage

    rows = [{k: v for k, v in row.items() if not k.startswith("ref_")} for row in pairs]
    config = parse_config(ReferenceConfig, {"max_length": 64, "mismatched": True}, "test")
    with_kl = rows_of(reference(make_table(rows), config, Context(model=base)).table)
    settings = {"steps": 6, "loss": "kto", "pairs_per_step": 16, "logging_steps": 1, "learning_rate": 0.02}
    plain = run_stage(base, pairs, tmp_path / "plain", **settings)
    monkeypatch.setattr(stage, "_with_mismatched", lambda *arguments: pytest.fail("drawn in training"))
    result = run_stage(base, with_kl, tmp_path / "kl", **settings)
    again = run_stage(base, with_kl, tmp_path / "again", **settings)
    assert rows_of(result.table) == rows_of(again.table)
    assert result.quality["step0"]["step0/passed"] == 1.0
    assert rows_of(result.table) != rows_of(plain.table)


# ---- adapters, trackers, hub


def test_lora_trains_little_and_merges_into_a_plain_model(base, pairs, tmp_path):
    result = run_stage(base, pairs, tmp_path, steps=3, lora={"r": 2, "alpha": 8}, learning_rate=1e-2)
    assert result.quality["trained_parameters"] < result.quality["parameters"] / 4
    assert result.quality["step0"]["step0/passed"] == 1.0
    merged, before = load_model(tmp_path / "model"), load_model(base)
    changed = {
        name: float((p - q).detach().abs().max()) > 0
        for (name, p), q in zip(merged.named_parameters(), before.parameters(), strict=True)
    }
    assert changed["model.layers.0.self_attn.q_proj.weight"]
    assert not changed["model.embed_tokens.weight"]


def test_lora_alone_is_an_adapter_directory_and_resumes(base, pairs, tmp_path):
    settings = {"steps": 4, "save_steps": 1, "lora": {"r": 2, "merge": False}, "learning_rate": 1e-2}
    run_stage(base, pairs, tmp_path / "whole", **settings)
    assert (tmp_path / "whole" / "model" / "adapter_model.safetensors").is_file()
    interrupt(base, pairs, tmp_path / "cut", at_step=3, **settings)
    run_stage(base, pairs, tmp_path / "cut", **settings)
    assert files_of(tmp_path / "whole" / "model") == files_of(tmp_path / "cut" / "model")


def test_lora_needs_no_reference_pass(base, pairs, tmp_path):
    settings = {"steps": 3, "lora": {"r": 2, "merge": False}, "learning_rate": 1e-2, "shared_prefix": True}
    settings |= {"pairs_per_micro_batch": None}
    bare = [{name: value for name, value in row.items() if not name.startswith("ref_")} for row in pairs]
    live = run_stage(base, bare, tmp_path / "live", **settings)
    stored = run_stage(base, pairs, tmp_path / "stored", **settings)
    assert (live.quality["reference"], stored.quality["reference"]) == ("adapter_off", "store")
    assert live.quality["step0"]["step0/reward_max"] == 0.0
    assert live.quality["final"] == pytest.approx(stored.quality["final"], abs=1e-4)
    with pytest.raises(PrefoptError, match="prefopt reference"):
        run_stage(base, bare, tmp_path / "all", **{**settings, "lora": None})
    trained = load_model(tmp_path / "live" / "model")  # the adapter on its base
    moved = [
        (p - q).abs().max() for p, q in zip(trained.parameters(), load_model(base).parameters(), strict=True)
    ]
    assert float(max(moved).detach()) > 1e-4


def test_gradient_checkpointing_changes_memory_only(base, pairs, tmp_path):
    plain = run_stage(base, pairs, tmp_path / "a", steps=2)
    recomputed = run_stage(base, pairs, tmp_path / "b", steps=2, gradient_checkpointing=True)
    assert rows_of(plain.table)[-1]["loss"] == pytest.approx(rows_of(recomputed.table)[-1]["loss"], abs=1e-6)


def test_bfloat16_is_a_choice_never_a_surprise(base, pairs, tmp_path):
    assert run_stage(base, pairs, tmp_path / "a", steps=1).quality["dtype"] == "float32"
    assert (
        run_stage(base, pairs, tmp_path / "b", steps=1, precision="bfloat16").quality["dtype"] == "bfloat16"
    )
    mixed = run_stage(base, pairs, tmp_path / "c", steps=1, precision="mixed")
    assert mixed.quality["dtype"] == "float32"
    assert mixed.quality["step0"]["step0/reward_max"] > 0


def test_a_mixed_reference_has_the_numeric_path_of_mixed_training(base, pairs, tmp_path):
    """The warning of a reference of another model must not come of bf16 arithmetic alone."""
    bare = [{k: v for k, v in row.items() if not k.startswith("ref_")} for row in pairs]
    scored = {}
    for dtype in ("float32", "mixed"):
        settings = parse_config(ReferenceConfig, {"max_length": 64, "dtype": dtype}, "test")
        scored[dtype] = rows_of(reference(make_table(bare), settings, Context(model=base)).table)
    first = {
        dtype: run_stage(base, rows, tmp_path / dtype, steps=1, precision="mixed").quality["step0"]
        for dtype, rows in scored.items()
    }
    assert first["mixed"]["step0/passed"] == 1.0
    assert first["mixed"]["step0/reward_per_token"] < 0.5 * first["float32"]["step0/reward_per_token"]


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(base, pairs, tmp_path, monkeypatch, name):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda word, *more: None if word == name else find(word, *more)
    )
    with pytest.raises(PrefoptError, match=f"{name} is not installed; pip install {name}"):
        run_stage(base, pairs, tmp_path, steps=1, report_to=["none", name])


def test_trackers_are_those_of_transformers(base, pairs, tmp_path, monkeypatch):
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    assert set(TRACKERS) == set(known)
    with pytest.raises(PrefoptError, match="'mlfow': no tracker of transformers, did you mean 'mlflow'"):
        parse_config(TrainConfig, {"report_to": ["none", "mlfow"]}, "x")

    class Absent:
        def __init__(self):
            raise RuntimeError("MlflowCallback requires mlflow to be installed.\nRun `pip install mlflow`.")

    monkeypatch.setitem(known, "mlflow", Absent)
    with pytest.raises(
        PrefoptError,
        match=r"mlflow: MlflowCallback requires mlflow to be installed\. Run `pip install mlflow`",
    ):
        run_stage(base, pairs, tmp_path, steps=1, report_to="mlflow")
    seen = []

    class There(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(logs)

    monkeypatch.setitem(known, "mlflow", There)
    run_stage(base, pairs, tmp_path, steps=1, report_to="mlflow")
    assert any("loss" in logs for logs in seen)


def test_lora_plus_lets_b_learn_faster(base, pairs, tmp_path):
    """Adam's first step is the learning rate in every place with a gradient; A has none at first, since B is 0."""
    moved = {}
    for ratio in (None, 8.0):
        lora = {"r": 2, "merge": False, "loraplus_lr_ratio": ratio}
        folder = tmp_path / str(ratio)
        run_stage(base, pairs, folder, steps=1, lora=lora, learning_rate=1e-3, warmup=0, schedule="constant")
        found = load_file(folder / "model" / "adapter_model.safetensors")
        moved[ratio] = max(float(w.abs().max()) for name, w in found.items() if "lora_B" in name)
    assert moved[8.0] == pytest.approx(8 * moved[None], rel=1e-3)


def test_an_adapter_that_moves_its_base_wants_a_store_and_is_written_for_its_base(base, pairs, tmp_path):
    lora = {"r": 2, "init_lora_weights": "pissa", "target_modules": ["q_proj", "v_proj"]}
    settings = {"steps": 2, "learning_rate": 1e-3, "save_steps": 1}
    bare = [{name: value for name, value in row.items() if not name.startswith("ref_")} for row in pairs]
    with pytest.raises(PrefoptError, match=r"adapter off is not the base.*run `prefopt reference`"):
        run_stage(base, bare, tmp_path / "bare", lora=lora, **settings)
    merged = run_stage(base, pairs, tmp_path / "merged", lora=lora, **settings)
    run_stage(base, pairs, tmp_path / "apart", lora={**lora, "merge": False}, **settings)
    assert merged.quality["step0"]["step0/passed"] == 1.0
    one, two = load_model(tmp_path / "merged" / "model"), load_model(tmp_path / "apart" / "model")
    far = [
        float((p - q).detach().abs().max()) for p, q in zip(one.parameters(), two.parameters(), strict=True)
    ]
    assert max(far) < 1e-5
    assert (tmp_path / "apart" / "model" / "adapter_model.safetensors").is_file()


def test_tensorboard_files_lie_in_the_stages_folder(base, pairs, tmp_path):
    pytest.importorskip("tensorboard")
    run_stage(base, pairs, tmp_path, steps=1, report_to="tensorboard")
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_push_uploads_the_finished_directory(base, pairs, tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repository, exist_ok):
            calls.append(("create", repository, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, sorted(p.name for p in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    run_stage(base, pairs, tmp_path, steps=1, push_to_hub="me/mine")
    assert calls[0] == ("create", "me/mine", True)
    assert calls[1][:2] == ("upload", "me/mine")
    assert {"README.md", "model.safetensors"} <= set(calls[1][2])


def test_a_hub_that_cannot_be_reached_is_one_line(base, pairs, tmp_path):
    with pytest.raises(PrefoptError, match=r"push to me/mine.*the model lies at") as caught:
        run_stage(base, pairs, tmp_path, steps=1, push_to_hub="me/mine")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_no_global_seed_is_left_changed(base, pairs, tmp_path):
    import numpy as np

    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    cpu, legacy = torch.random.get_rng_state().clone(), np.random.get_state()[1].copy()  # noqa: NPY002
    run_stage(base, pairs, tmp_path, steps=1)
    assert torch.equal(torch.random.get_rng_state(), cpu)
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


# ---- resume


def interrupt(base, rows, folder, *, at_step, **settings):
    """Run the stage until `at_step`, where it breaks off as a killed process would leave it."""
    from prefopt.training.trainer import PreferenceTrainer

    class Killed(BaseException):
        pass

    original = PreferenceTrainer.training_step

    def step(self, *args, **kwargs):
        if self.state.global_step + 1 == at_step:
            raise Killed
        return original(self, *args, **kwargs)

    PreferenceTrainer.training_step = step
    try:
        with pytest.raises(Killed):
            run_stage(base, rows, folder, **settings)
    finally:
        PreferenceTrainer.training_step = original


RESUME = {"epochs": 3, "save_steps": 2, "eval_steps": 3, "keep": "best", "keep_checkpoints": False}


@pytest.mark.parametrize("at_step", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_an_interrupted_stage_ends_with_the_same_bytes(base, pairs, tmp_path, at_step):
    whole = run_stage(base, pairs, tmp_path / "whole", **RESUME)
    interrupt(base, pairs, tmp_path / "cut", at_step=at_step, **RESUME)
    assert not (tmp_path / "cut" / "model").exists()
    resumed = run_stage(base, pairs, tmp_path / "cut", **RESUME)
    assert files_of(tmp_path / "whole" / "model") == files_of(tmp_path / "cut" / "model")
    assert rows_of(whole.table) == rows_of(resumed.table)
    assert whole.table.column_names == resumed.table.column_names
    assert whole.quality == resumed.quality


SAMPLED = {
    "steps": 5,
    "save_steps": 2,
    "eval_steps": 2,
    "learning_rate": 0.05,
    "lora": {"r": 2, "dropout": 0.3},
}


@pytest.fixture(scope="module")
def sampled(base, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    run_stage(base, pairs, folder, sample_steps=2, sample_prompts=2, sample_tokens=6, **SAMPLED)
    return folder


def test_answers_while_training_change_nothing_of_it(base, pairs, sampled, tmp_path):
    """Dropout draws random numbers in every step, so that any number drawn for a sample would show."""
    run_stage(base, pairs, tmp_path, **SAMPLED)
    mine, others = files_of(sampled), files_of(tmp_path)
    assert mine.keys() - others.keys() == {"samples.jsonl"}
    differ = [name for name in others if "timings" not in name and others[name] != mine[name]]
    assert [name for name in differ if not name.endswith("README.md")] == []  # the card names the settings


def test_answers_while_training_are_of_held_out_prompts_before_during_and_after(base, pairs, sampled, capsys):
    from prefopt.engines import Sampling
    from prefopt.engines.transformers_engine import TransformersEngine

    lines = [json.loads(line) for line in (sampled / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 0, 2, 2, 4, 4, 5, 5]
    by_prompt = {row["prompt_id"]: row for row in pairs}
    assert all(by_prompt[line["prompt_id"]]["split"] == "eval" for line in lines)
    for step, place in ((0, base), (5, sampled / "model")):
        engine = TransformersEngine(load_model(place), load_tokenizer(place), "")
        for line in (line for line in lines if line["step"] == step):
            ids = engine.encode(by_prompt[line["prompt_id"]])
            answer = engine.generate([ids], Sampling(temperature=0.0, max_new_tokens=6), 0)[0]
            assert (line["completion"], line["finish_reason"]) == (answer.text, answer.finish_reason)


@pytest.mark.parametrize("at_step", [4, 5])
def test_answers_of_a_killed_training_are_those_of_a_whole_one(base, pairs, sampled, tmp_path, at_step):
    settings = {"sample_steps": 2, "sample_prompts": 2, "sample_tokens": 6, **SAMPLED}
    interrupt(base, pairs, tmp_path, at_step=at_step, **settings)
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 4, "prompt_id": "half of a li')
    run_stage(base, pairs, tmp_path, **settings)
    assert (tmp_path / "samples.jsonl").read_bytes() == (sampled / "samples.jsonl").read_bytes()
    weights = "model/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (sampled / weights).read_bytes()


def test_a_model_that_cannot_answer_trains_all_the_same(base, pairs, tmp_path, monkeypatch, caplog):
    def refuse(*arguments):
        raise RuntimeError("no cache\nfor this")

    monkeypatch.setattr("prefopt.engines.transformers_engine.TransformersEngine.write", refuse)
    with caplog.at_level(logging.WARNING, "prefopt.train"):
        result = run_stage(base, pairs, tmp_path, steps=3, sample_steps=1)
    assert result.quality["steps"] == 3
    assert sum("no samples from step 0 on: no cache for this" in r.message for r in caplog.records) == 1


# ---- the best weights


def test_auto_keeps_the_best_of_real_models_that_are_evaluated_twice():
    def kept(parameters=135_000_000, steps=100, has_eval=True, **settings):
        return with_best(TrainConfig(**settings), parameters, steps, has_eval=has_eval).keep

    assert kept() == kept(steps=51) == "best"
    assert kept(steps=50) == kept(has_eval=False) == kept(eval_steps=None) == kept(1_000_000) == "auto"
    assert kept(keep="last") == "last"


def test_auto_is_last_on_a_small_model_and_best_on_a_real_one(base, pairs, tmp_path, monkeypatch, capsys):
    settings = {"steps": 4, "eval_steps": 2, "save_steps": 4, "learning_rate": 0.3, "schedule": "constant"}
    auto = run_stage(base, pairs, tmp_path / "auto", **settings)
    last = run_stage(base, pairs, tmp_path / "last", keep="last", **settings)
    assert auto.quality == last.quality
    assert auto.quality["kept_step"] == 4
    capsys.readouterr()
    monkeypatch.setattr("prefopt.stages.train.settings.REAL_MODEL", 1)
    real = run_stage(base, pairs, tmp_path / "real", **settings)
    losses = {r["step"]: r["eval_loss"] for r in rows_of(real.table) if r.get("eval_loss") is not None}
    assert real.quality["kept_step"] == min(losses, key=losses.get) == 2
    assert capsys.readouterr().err.count("train.keep: last keeps the last") == 1


def test_a_stage_killed_behind_the_training_is_not_trained_again(base, pairs, tmp_path, monkeypatch):
    first = run_stage(base, pairs, tmp_path, steps=2)
    assert (tmp_path / WORK).is_dir()  # until the manifest is written
    monkeypatch.setattr(
        "prefopt.training.trainer.PreferenceTrainer.train", lambda *a, **k: pytest.fail("trained again")
    )
    again = run_stage(base, pairs, tmp_path, steps=2)
    assert rows_of(first.table) == rows_of(again.table)
    assert first.quality == again.quality


def test_checkpoints_stay_when_asked_for(base, pairs, tmp_path):
    run_stage(base, pairs, tmp_path, steps=3, save_steps=2, keep_checkpoints=True)
    assert (tmp_path / "checkpoints" / "checkpoint-2" / "COMPLETE").is_file()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from prefopt.training.trainer import PreferenceTrainer
    from prefopt.tables.records import read_table
    from prefopt.stages.stage import Context, StageFolder
    from prefopt.stages.train.train import TrainConfig, train

    torch.set_num_threads(1)
    folder, stop = Path(sys.argv[1]), int(sys.argv[2])
    original = PreferenceTrainer._save_checkpoint if stop < 0 else PreferenceTrainer.training_step

    def die(self, *args, **kwargs):
        if stop < 0 and self.state.global_step == -stop:
            import prefopt.training.checkpoints as checkpoints
            checkpoints.save_window = lambda *a: os.kill(os.getpid(), signal.SIGKILL)  # files there, no marker yet
        elif self.state.global_step + 1 == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(PreferenceTrainer, original.__name__, die)
    config = TrainConfig(loss=[{"name": "dpo"}, {"name": "budget"}], learning_rate=1e-3, pairs_per_step=8, steps=7,
                         pairs_per_micro_batch=4, max_length=64, logging_steps=3, save_steps=2, eval_steps=4)
    context = Context(seed=1, model=Path(sys.argv[3]), folder=StageFolder(folder))
    result = train(read_table(Path(sys.argv[4])), config, context)
    result.table.to_parquet(folder / "history.parquet")
"""


@pytest.mark.slow
def test_sigkill_in_a_step_or_a_checkpoint_then_the_same_bytes(base, pairs, tmp_path):
    from prefopt.tables.records import write_table

    write_table(make_table(pairs), tmp_path / "pairs.parquet")
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))

    def run(folder, stop):
        folder.mkdir(exist_ok=True)
        words = [str(script), str(folder), str(stop), str(base), str(tmp_path / "pairs.parquet")]
        return subprocess.run(
            [sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
        )

    whole = run(tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr.decode()[-2000:]
    shutil.rmtree(tmp_path / "whole" / WORK)
    for stop in (6, -4):
        assert run(tmp_path / f"cut{stop}", stop).returncode == -signal.SIGKILL
        assert list((tmp_path / f"cut{stop}" / "checkpoints").glob("checkpoint-*"))
        resumed = run(tmp_path / f"cut{stop}", 0)
        assert resumed.returncode == 0, resumed.stderr.decode()[-2000:]
        shutil.rmtree(tmp_path / f"cut{stop}" / WORK)
        assert files_of(tmp_path / "whole") == files_of(tmp_path / f"cut{stop}")


@pytest.mark.slow
def test_two_processes_write_one_model_like_that_of_one_process(base, pairs, tmp_path):
    from safetensors.torch import load_file

    from prefopt.tables.records import write_table

    write_table(make_table(pairs), tmp_path / "pairs.parquet")
    script = tmp_path / "plain.py"
    script.write_text(textwrap.dedent(KILLED))
    models = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
            if processes > 1
            else []
        )
        words = [str(script), str(folder), "0", str(base), str(tmp_path / "pairs.parquet")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([sys.executable, *launch, *words], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert done.stderr.decode().count("train  ") <= 1  # one bar
        models.append(load_file(folder / "model" / "model.safetensors"))
    assert max(float((models[0][name] - models[1][name]).abs().max()) for name in models[0]) < 1e-5
