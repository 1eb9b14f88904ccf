"""One optimizer step of ours against TRL 1.16's DPOTrainer, from the same text rows: same loss, same new weights."""

from __future__ import annotations

import pytest
import torch

from prefopt.losses import build_loss
from prefopt.scoring.logprobs import score_cuts
from prefopt.training.collate import PAIR_ROLES
from prefopt.training.examples import encode_rows

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TRL's own deprecations

ROWS = [
    {"id": "a", "prompt": "12+7", "chosen": "=19", "rejected": "=18;+"},
    {"id": "b", "prompt": "5*6-1", "chosen": "=30;=29", "rejected": "=5"},
    {"id": "c", "prompt": "9-4", "chosen": "=5", "rejected": "=13"},
    {"id": "d", "prompt": "80+8+8", "chosen": "=88;=96", "rejected": "=96;;"},
]


def tiny(vocabulary):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, num_key_value_heads=2, initializer_range=0.2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"loss_type": "sigmoid", "beta": 0.3}, {"name": "dpo", "beta": 0.3}),
        ({"loss_type": "ipo"}, "ipo"),
        ({"ld_alpha": 0.4, "beta": 0.3}, {"name": "dpo", "beta": 0.3, "ld_alpha": 0.4}),
        ({"use_weighting": True, "beta": 0.3}, {"name": "dpo", "beta": 0.3, "wpo": True}),
    ],
    ids=["sigmoid", "ipo", "ld_alpha", "use_weighting"],
)
def test_one_step_gives_trls_loss_and_weights(tmp_path, theirs, ours):
    pytest.importorskip("trl")
    from dataclasses import replace

    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from prefopt.recipes.quickstart.build import make_tokenizer
    from prefopt.training.settings import PreferenceConfig
    from prefopt.training.trainer import PreferenceTrainer

    tokenizer = make_tokenizer()
    shared = {
        "output_dir": str(tmp_path), "use_cpu": True, "max_steps": 1, "optim": "sgd", "learning_rate": 0.5, "warmup_steps": 0,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "bf16": False,
    }  # fmt: skip
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 64}
    texts = Dataset.from_list([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in ROWS])
    before = tiny(len(tokenizer))
    reference = DPOTrainer(
        tiny(len(tokenizer)), ref_model=tiny(len(tokenizer)), args=DPOConfig(**shared, **batch, **theirs),
        train_dataset=texts, processing_class=tokenizer,
    )  # fmt: skip
    reference.train()

    examples, _ = encode_rows(tokenizer, ROWS, max_length=64, drop=lambda reason, where: pytest.fail(where))
    for index, example in enumerate(examples):
        answers = [(example.prompt, example.answers[role]) for role in PAIR_ROLES]
        cuts = [(len(ids), example.shared_tokens) for _, ids in answers]
        sums = zip(PAIR_ROLES, score_cuts(before, answers, cuts, 512), strict=True)
        found = {
            name: v for role, both in sums for name, v in zip((role, f"{role}_prefix"), both, strict=True)
        }
        examples[index] = replace(example, reference=found)
    settings = PreferenceConfig(**shared, pairs_per_step=4, pairs_per_micro_batch=1)
    trainer = PreferenceTrainer(tiny(len(tokenizer)), settings, build_loss(ours), examples)
    trainer.train()

    loss = [next(row["loss"] for row in t.state.log_history if "loss" in row) for t in (trainer, reference)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-5)
    pairs = [*zip(before.parameters(), reference.model.parameters(), trainer.model.parameters(), strict=True)]
    assert max(float((q - p).detach().abs().max()) for p, q, _ in pairs) > 1e-3
    assert max(float((q - r).detach().abs().max()) for _, q, r in pairs) < 1e-5
