"""One training run of prefopt or of TRL on the same model, pairs and settings: what train.py and gpu.py time.

A task is a dict: tool ("prefopt" or "trl"), loss (a name of `LOSSES`), pairs_per_step, learning_rate, optimizer, use_cpu,
folder; for prefopt max_tokens_per_row; for TRL micro_batch; own_order: each tool's best order instead of the order given;
response_nll: see `trl_class`. Log-probs in nats.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import common

SEED = 0
Reference = list[dict[str, float]] | None

# loss -> settings of `build_loss`, and of TRL's config: the same function of the log-probs
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo": ({"name": "dpo", "beta": 0.1}, {"beta": 0.1, "max_length": None, "precompute_ref_log_probs": True}),
    "simpo": (
        {"name": "simpo", "beta": 2.0, "gamma": 1.0},
        {"beta": 2.0, "simpo_gamma": 1.0, "loss_type": "simpo", "cpo_alpha": 0.0, "max_length": 2**20},
    ),
    "orpo": ({"name": "orpo", "lam": 0.1}, {"beta": 0.1, "max_length": 2**20}),
}  # fmt: skip


@dataclass
class Notes:
    """What a run leaves. ends_s: start of training, then the end of each step, on one clock. losses: of the steps."""

    ends_s: list[float] = field(default_factory=list)
    losses: list[Any] = field(default_factory=list)

    def seconds(self, untimed_steps: int) -> float:
        """Time of the steps after the first `untimed_steps`."""
        return self.ends_s[-1] - self.ends_s[untimed_steps]


@dataclass(frozen=True)
class Arm:
    """What both tools are given. callback: the clock. See `train`."""

    task: dict[str, Any]
    model: Any
    pairs: list[common.Pair]
    reference: Reference
    notes: Notes
    callback: Any


def train(
    task: dict[str, Any],
    model: Any,
    pairs: list[common.Pair],
    reference: Reference,
    begin: Callable[[], None] = lambda: None,
    wait: Callable[[], None] = lambda: None,
) -> Notes:
    """Train `model` on the pairs once, step by step in their order, with the tool of the task.

    reference: log-probs per pair, where the loss needs them. begin: called when training starts, before the first
    step. wait: returns when the device has done what it was given (a GPU's clock needs it).
    """
    run = _prefopt if task["tool"] == "prefopt" else _trl
    notes = Notes()
    run(Arm(task, model, pairs, reference, notes, _clock(notes, begin, wait)))
    notes.losses = [float(loss) for loss in notes.losses]
    return notes


def _clock(notes: Notes, begin: Callable[[], None], wait: Callable[[], None]) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            begin()
            notes.ends_s.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            wait()
            notes.ends_s.append(time.perf_counter())

    return Clock()


def _trainer_settings(arm: Arm) -> dict[str, Any]:
    """Settings of transformers' Trainer that both tools get."""
    task = arm.task
    return {
        "output_dir": task["folder"],
        "max_steps": task.get("max_steps", len(arm.pairs) // task["pairs_per_step"]),
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "optim": task["optimizer"],
        "use_cpu": task["use_cpu"],
        "bf16": False,  # no autocast: the model's own dtype
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }


def _noting(trainer: Any, losses: list[Any]) -> Any:
    """The trainer class; what its `training_step` returns is added to `losses`."""

    class Noting(trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss)
            return loss

    return Noting


def _prefopt(arm: Arm) -> None:
    from prefopt.losses import build_loss
    from prefopt.training.collate import Example, StepLoader, StepSampler, compact
    from prefopt.training.settings import PreferenceConfig
    from prefopt.training.trainer import PreferenceTrainer

    task = arm.task

    class InOrder(StepSampler):
        def __iter__(self) -> Any:
            for start in range(0, self.rows, self.rows_per_step):
                yield list(range(start, start + self.rows_per_step))

    class Trainer(PreferenceTrainer):
        def get_train_dataloader(self) -> Any:
            if task.get("own_order"):
                return super().get_train_dataloader()
            rows = self.train_dataset.examples
            sampler = InOrder(len(rows), task["pairs_per_step"], SEED)
            return StepLoader(rows, sampler, self._collator())

    roles = ("chosen", "rejected")
    examples = [
        Example(
            str(k),
            compact(pair["prompt_ids"]),
            {role: compact(pair[f"{role}_ids"]) for role in roles},
            arm.reference[k] if arm.reference else {},
        )
        for k, pair in enumerate(arm.pairs)
    ]
    packing = {"shared_prefix": True, "max_tokens_per_row": task["max_tokens_per_row"]}
    settings = PreferenceConfig(**_trainer_settings(arm), pairs_per_step=task["pairs_per_step"], **packing)
    loss = build_loss(LOSSES[task["loss"]][0])
    trainer = _noting(Trainer, arm.notes.losses)
    trainer(arm.model, settings, loss, examples, callbacks=[arm.callback]).train()


def _trl(arm: Arm) -> None:
    from datasets import Dataset
    from transformers import PrinterCallback

    from prefopt.recipes.quickstart.build import make_tokenizer

    task = arm.task
    base, config = trl_class(task["loss"], response_nll=bool(task.get("response_nll")))
    micro_batch = task["micro_batch"]
    parts: list[Any] = []
    size = task["pairs_per_step"] // micro_batch
    settings = config(
        **_trainer_settings(arm),
        **LOSSES[task["loss"]][1],
        gradient_checkpointing=False,  # on by default in TRL alone
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=size,
        train_sampling_strategy="group_by_length" if task.get("own_order") else "sequential",
        remove_unused_columns=False,
        disable_dropout=True,
    )
    rows = trl_rows(arm.pairs, arm.reference, as_text=task["loss"] != "dpo")
    trainer = _noting(base, parts)(
        arm.model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(),
        callbacks=[arm.callback],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # the Trainer divides the loss of a micro-batch by their number, so a step's losses add up
    arm.notes.losses = [sum(float(part) for part in parts[k : k + size]) for k in range(0, len(parts), size)]


def trl_rows(pairs: list[common.Pair], reference: Reference, *, as_text: bool) -> list[dict[str, Any]]:
    """Rows of a data set for TRL. as_text: token ids written out, for trainers that insist on text."""
    rows = []
    for k, pair in enumerate(pairs):
        answer = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        known = {f"ref_{role}_logps": value for role, value in (reference[k] if reference else {}).items()}
        ids = (
            {key.removesuffix("_ids"): " ".join(map(str, value)) for key, value in pair.items()}
            if as_text
            else pair
        )
        rows.append({**ids, **known, "length": len(pair["prompt_ids"]) + answer})
    return rows


def trl_class(loss: str, *, response_nll: bool = False) -> tuple[Any, Any]:
    """TRL's trainer for a loss and its config, fed with token ids instead of text; nothing that is timed is changed.

    response_nll: only for ORPO, whose likelihood term in TRL counts the prompt's tokens too and is a mean over the
    tokens of a micro-batch. With it the term is the paper's, mean per token of each chosen answer (2403.07691), which
    is what prefopt computes: for comparing losses, never for timing.
    """
    if loss == "dpo":
        from trl import DPOConfig, DPOTrainer

        class Dpo(DPOTrainer):
            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset  # token ids already

            def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                return dataset  # reference log-probs are there already

        return Dpo, DPOConfig
    if loss == "orpo":
        from trl.experimental.orpo import ORPOConfig as config
        from trl.experimental.orpo import ORPOTrainer as trainer
    else:
        from trl.experimental.cpo import CPOConfig as config
        from trl.experimental.cpo import CPOTrainer as trainer

    class FromIds(trainer):
        tokenize_row = staticmethod(_ids_of_row)

        def concatenated_forward(self, *args: Any, **kwargs: Any) -> Any:
            found = super().concatenated_forward(*args, **kwargs)
            return (*found[:4], -found[0].mean(), *found[5:]) if response_nll else found

    return FromIds, config


def _ids_of_row(row: dict[str, Any], model: Any = None) -> dict[str, list[int]]:
    """What TRL's own `tokenize_row` gives, from ids written out as text."""
    prompt, *answers = (
        [int(token) for token in row[key].split()] for key in ("prompt", "chosen", "rejected")
    )
    found = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for role, answer in zip(("chosen", "rejected"), answers, strict=True):
        found |= {
            f"{role}_input_ids": prompt + answer,
            f"{role}_attention_mask": [1] * (len(prompt) + len(answer)),
            f"{role}_labels": [-100] * len(prompt) + answer,
        }
    return found
