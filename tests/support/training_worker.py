"""Tiny models and rows for the trainer's tests; run as a script (by torchrun) it trains and saves the weights.

Usage: python training_worker.py OUTPUT_DIR LOSS_JSON ROWS PAIRS_PER_STEP [STOP_AT_STEP]
TRAINING_WORKER_SETTINGS in the environment holds more settings as JSON. With STOP_AT_STEP it kills itself (SIGKILL) in that optimizer step; started again without, it resumes.

Usage: python training_worker.py JOBS_JSON: several runs one after the other, see `run_job`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from prefopt.core.errors import PrefoptError
from prefopt.losses import LossSum, build_loss
from prefopt.models.lora import add_adapter
from prefopt.models.quiet import no_bars, seeded
from prefopt.scoring.logprobs import score
from prefopt.training import distributed
from prefopt.training.collate import Example, compact
from prefopt.training.metrics import history_rows
from prefopt.training.settings import PreferenceConfig
from prefopt.training.trainer import PreferenceTrainer

VOCABULARY = 64


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, spread: float = 0.1) -> LlamaForCausalLM:
    """Two layers of width 32. spread: of the initial weights; large, so that log-probs differ between tokens."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=spread,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(dtype).eval()


def make_examples(count: int, seed: int = 0, model: Any = None) -> list[Example]:
    """Random pairs; with `model`, its log-probs as reference."""
    rng = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        prompt, chosen, rejected = (rng.integers(3, VOCABULARY, rng.integers(2, 12)) for _ in range(3))
        answers = {"chosen": compact(chosen), "rejected": compact(rejected)}
        examples.append(Example(f"r{index}", compact(prompt), answers))
    return with_reference(examples, model) if model is not None else examples


def with_reference(examples: list[Example], model: Any) -> list[Example]:
    """The rows with the log-probs of `model` as reference."""
    found = []
    for example in examples:
        logps = score(model, [(example.prompt, ids) for ids in example.answers.values()], 512)
        found.append(replace(example, reference=dict(zip(example.answers, logps, strict=True))))
    return found


def make_trainer(
    folder: Path,
    loss: LossSum,
    train: list[Example],
    held_out: list[Example] | None = None,
    *,
    model: Any = None,
    callbacks: Any = None,
    **settings: Any,
) -> PreferenceTrainer:
    """A trainer on the CPU that saves nothing unless told so."""
    fixed = {
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-4,  # Adam's first step is the sign of the gradient, whose rounding errors would decide where it is 0
        "pairs_per_step": 8,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
    }
    args = PreferenceConfig(output_dir=str(folder), **{**fixed, **settings})
    return PreferenceTrainer(model or tiny_model(), args, loss, train, held_out, callbacks)


class Stop(Exception):
    """A run that ends before its time, as by a kill."""


class StopAt(TrainerCallback):
    """Ends the run at the beginning of an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        if state.global_step + 1 == self.step:
            raise Stop


def run_job(
    folder: str,
    loss: Any = "dpo",
    rows: int = 19,
    stop: int = 0,
    copy_of: str | None = None,
    lora: bool = False,
    unsharded: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train (or resume) in `folder`, save the model there; returns what was seen of the set-up, and an error's text.

    stop: end before that step. copy_of: start with the checkpoints of another job's folder. unsharded: as if sharding did
    nothing. settings: the trainer's.
    """
    path, model = Path(folder), tiny_model()
    first = os.environ.get("RANK", "0") == "0"
    if copy_of and first:
        shutil.copytree(copy_of, path)
    train, held_out = make_examples(rows, 0, model), make_examples(5, 1, model)
    if lora:
        with seeded(0):
            model = add_adapter(model, r=4, alpha=8.0, dropout=0.0, target_modules="all-linear")
    fixed = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
    fixed |= {"eval_steps": 3, "learning_rate": 1e-3, "logging_steps": 1}
    callbacks = [StopAt(stop)] if stop else []
    shard = distributed.shard
    if unsharded:
        distributed.shard = lambda model, *args, **kwargs: model
    try:
        trainer = make_trainer(
            path, build_loss(loss), train, held_out, model=model, callbacks=callbacks, **{**fixed, **settings}
        )
        trainer.train(resume_from_checkpoint=True)
    except PrefoptError as error:
        return {"error": str(error)}
    except Stop:
        return {}
    finally:
        distributed.shard = shard
    seen = {
        "strategy": distributed.applied_strategy(trainer.model_wrapped),
        "sharded": sum(isinstance(weight, DTensor) for weight in trainer.model.parameters()),
        "weights": len(list(trainer.model.parameters())),
    }
    module, weights = trainer.final_model(merge=False)
    if trainer.is_world_process_zero():
        with no_bars():
            module.save_pretrained(path / "model", state_dict=weights)
        (path / "history.json").write_text(json.dumps(history_rows(trainer.state.log_history)))
    return seen


def run_jobs(file: Path) -> None:
    """Run every job of a JSON file {name: arguments of run_job}; NAME.json is what the first process returns."""
    torch.set_num_threads(1)
    for name, job in json.loads(file.read_text()).items():
        seen = run_job(**job)
        if os.environ.get("RANK", "0") == "0":
            file.with_name(f"{name}.json").write_text(json.dumps(seen))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def main() -> None:
    """Train three epochs of `rows` rows and save weights and history."""
    if len(sys.argv) == 2:
        run_jobs(Path(sys.argv[1]))
        return
    folder, loss, rows, pairs_per_step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    stop = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    torch.set_num_threads(1)
    model = tiny_model()
    trainer = make_trainer(
        folder,
        build_loss(json.loads(loss)),
        make_examples(rows, 0, model),
        make_examples(5, 1, model),
        model=model,
        num_train_epochs=3,
        pairs_per_step=pairs_per_step,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        **json.loads(os.environ.get("TRAINING_WORKER_SETTINGS", "{}")),
    )
    original = trainer.training_step

    def step(*args: Any, **kwargs: Any) -> Any:
        if stop and trainer.state.global_step + 1 == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    trainer.training_step = step
    trainer.train(resume_from_checkpoint=True)
    if trainer.is_world_process_zero():
        trainer.save_model(str(folder / "model"))
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
