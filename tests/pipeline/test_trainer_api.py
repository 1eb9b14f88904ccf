"""`prefopt.Trainer`: what a TRL user types, against TRL's own DPOTrainer, and what it says of bad input."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import Dataset

import prefopt
from prefopt.core.errors import PrefoptError
from prefopt.recipes.quickstart.build import make_tokenizer

ROWS = [
    {"prompt": "12+7", "chosen": "=19", "rejected": "=18;+"},
    {"prompt": "5*6-1", "chosen": "=30;=29", "rejected": "=5"},
    {"prompt": "9-4", "chosen": "=5", "rejected": "=13"},
    {"prompt": "80+8+8", "chosen": "=88;=96", "rejected": "=96;;"},
]
STEPS = {
    "max_steps": 4,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def tiny(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def trained(tokenizer, rows=ROWS, **more):
    args = {**STEPS, "pairs_per_step": 4, **more.pop("args", {})}
    found = prefopt.Trainer((tiny(tokenizer), tokenizer), rows, args=args, **more)
    found.train()
    return found


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl")


@pytest.mark.filterwarnings("ignore")  # TRL's own deprecations
@pytest.mark.parametrize(
    "theirs",
    [
        {"beta": 0.3},
        pytest.param(
            {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.8, 0.2], "beta": 0.3},
            marks=pytest.mark.slow,
        ),
        pytest.param({"loss_type": "ipo"}, marks=pytest.mark.slow),
        pytest.param({"loss_type": "robust", "label_smoothing": 0.2}, marks=pytest.mark.slow),
        pytest.param({"ld_alpha": 0.4, "beta": 0.3}, marks=pytest.mark.slow),
        pytest.param({"use_weighting": True, "beta": 0.3}, marks=pytest.mark.slow),
        pytest.param(
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda given: "-".join(given),
)
def test_losses_over_several_steps_are_trls(tmp_path, trl, tokenizer, theirs):
    """The same DPOConfig given to both: losses to 1e-4 over four steps of AdamW, and the weights they come to."""
    data = Dataset.from_list(ROWS)
    config = trl.DPOConfig(
        **STEPS, **theirs, output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, bf16=False,
        gradient_accumulation_steps=2, max_length=64, save_strategy="no", report_to="none", disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    other = trl.DPOTrainer(
        tiny(tokenizer),
        ref_model=tiny(tokenizer),
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
    )
    other.train()
    ours = prefopt.Trainer(tiny(tokenizer), data, processing_class=tokenizer, args=config)
    ours.train()
    assert losses(ours) == pytest.approx(losses(other), abs=1e-4)
    assert losses(ours)[0] != pytest.approx(losses(ours)[-1], abs=1e-2)
    weights = zip(ours.model.parameters(), other.model.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in weights) < 2e-3  # Adam's sign of tiny slopes


def test_names_objects_and_forms_come_to_the_same(tokenizer, tmp_path):
    """A model by its directory or in memory; a Dataset, a list and a pandas frame."""
    pandas = pytest.importorskip("pandas")
    wanted = losses(trained(tokenizer))
    model = tiny(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for rows in (Dataset.from_list(ROWS), pandas.DataFrame(ROWS)):
        assert losses(trained(tokenizer, rows)) == wanted
    by_name = prefopt.Trainer(tmp_path, ROWS, args={**STEPS, "pairs_per_step": 4})
    by_name.train()
    assert losses(by_name) == wanted


def test_reference_columns_are_used_where_they_are(tokenizer):
    """One row's own reference moves the first loss by exactly what the margin moves."""
    plain = trained(tokenizer, args={"max_steps": 1})
    reference = plain.train_dataset.examples[0].reference
    rows = [
        {
            **ROWS[0],
            "ref_chosen_logps": reference["chosen"] - 10.0,
            "ref_rejected_logps": reference["rejected"],
        }
    ]
    moved = trained(
        tokenizer, rows, loss={"name": "dpo", "beta": 0.1}, args={"max_steps": 1, "pairs_per_step": 1}
    )
    assert losses(plain) == pytest.approx([torch.log(torch.tensor(2.0)).item()], abs=1e-6)
    assert losses(moved) == pytest.approx([torch.log1p(torch.exp(torch.tensor(-1.0))).item()], abs=1e-5)


def test_weights_of_rows_count(tokenizer):
    rows = [{**row, "weight": weight} for row, weight in zip(ROWS, (2.0, 0.0, 1.0, 1.0), strict=True)]
    assert losses(trained(tokenizer, rows, args={"max_steps": 1})) == pytest.approx([0.693147], abs=1e-5)
    nothing = [{**row, "weight": 0.5} for row in ROWS]
    assert losses(trained(tokenizer, nothing, args={"max_steps": 1})) == pytest.approx([0.346574], abs=1e-5)


def test_messages_unpaired_rows_and_losses_that_are_functions(tokenizer, caplog):
    def margin(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1):
        return -torch.nn.functional.logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected))

    assert losses(trained(tokenizer, loss=margin)) == pytest.approx(
        losses(trained(tokenizer, loss="dpo")), abs=1e-6
    )
    singles = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0}
        for i, row in enumerate(ROWS)
    ]
    kto = trained(tokenizer, singles, loss="kto", args={"max_steps": 2})
    assert all(map(torch.isfinite, map(torch.tensor, losses(kto))))
    assert losses(
        trained(tokenizer, loss="kto", args={"max_steps": 1, "pairs_per_step": 8})
    )  # pairs are split
    with caplog.at_level(logging.WARNING, "prefopt"):
        same = [*ROWS, {"prompt": "1+1", "chosen": "=2", "rejected": "=2"}]
        assert trained(tokenizer, same, args={"max_steps": 1}).dropped == {"identical answers": 1}
    assert "1 identical answers" in caplog.text


def test_an_adapter_trains_alone_and_is_saved_alone(tokenizer, tmp_path):
    from peft import LoraConfig

    base = tiny(tokenizer)
    found = prefopt.Trainer(
        (base, tokenizer), ROWS, ROWS[:2], peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"),
        args={**STEPS, "pairs_per_step": 4},
    )  # fmt: skip
    assert found.reference_kind == "adapter_off"
    found.train()
    assert losses(found)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(found)[-1] < losses(found)[0]
    assert found.evaluate(ROWS[2:])["eval_loss"] > 0
    found.save_model(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_what_is_saved_is_what_was_trained(tokenizer, tmp_path):
    found = trained(tokenizer)
    found.save_model(tmp_path / "out")
    again = prefopt.Trainer(tmp_path / "out", ROWS, args={"max_steps": 1, "pairs_per_step": 4})
    for a, b in zip(found.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "dpo" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(PrefoptError, match="where to"):
        found.save_model()


def test_evaluation_of_a_trained_model_needs_its_reference(tokenizer):
    found = trained(tokenizer, eval_dataset=ROWS[:2])
    assert found.evaluate()["eval_loss"] < 0.69
    with pytest.raises(PrefoptError, match="no longer its own reference"):
        found.evaluate(ROWS[2:])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"rows": []}, "holds no rows"),
        ({"rows": [{"prompt": "1+1"}]}, "holds prompts, not pairs"),
        ({"rows": {"prompt": ["1"]}}, "a mapping"),
        ({"rows": 3}, "a int; give a Dataset"),
        ({"rows": [{"question": "1", "answr": "2"}]}, "pairs|no known format"),
        ({"loss": "dpoo"}, "did you mean 'dpo'"),
        ({"loss": "kto", "args": {"pairs_per_step": 3}, "rows": ROWS[:1] * 0 + [{"prompt": "1", "chosen": "", "rejected": "2"}]}, "empty"),
        ({"args": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"args": 3}, "TrainerConfig"),
        ({"peft_config": {"r": 2}}, "LoraConfig"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tokenizer, more, says):
    rows = more.pop("rows", ROWS)
    with pytest.raises(PrefoptError, match=says) as error:
        prefopt.Trainer((tiny(tokenizer), tokenizer), rows, **more)
    assert "\n" not in str(error.value)


def test_a_model_without_tokenizer_is_one_line(tokenizer):
    with pytest.raises(PrefoptError, match="without its tokenizer"):
        prefopt.Trainer(tiny(tokenizer), ROWS)
    with pytest.raises(PrefoptError, match="a int; give a directory"):
        prefopt.Trainer(3, ROWS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"truncation_mode": "keep_end"}, "truncation_mode"),
        ({"model_init_kwargs": {"dtype": "float32"}}, "model_init_kwargs"),
        ({"group_by_length": True}, "group_by_length|unexpected"),
    ],
)
def test_settings_of_trl_without_counterpart_are_refused(tmp_path, trl, tokenizer, setting, says):
    try:
        config = trl.DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **setting)
    except (TypeError, ValueError):
        pytest.skip("this TRL has no such setting")
    with pytest.raises(PrefoptError, match=says):
        prefopt.Trainer((tiny(tokenizer), tokenizer), ROWS, args=config)
