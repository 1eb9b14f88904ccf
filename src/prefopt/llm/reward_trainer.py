"""Training of reward models on transformers.Trainer, by the rules of `prefopt.llm.trainer`.

An item of the loader is a whole optimizer step, so the loss is the exact mean over the step, sum_i w_i l_i / rows,
whatever the micro-batches; checkpoints count only with their marker; nothing of the wall clock enters the history.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import PrinterCallback

from prefopt.errors import PrefoptError
from prefopt.llm import checkpoints
from prefopt.llm.callbacks import Flow
from prefopt.llm.collate import Example, Examples, Share, ShareCollator, Slot, StepLoader, StepSampler
from prefopt.llm.forward import Table, detached, joined, mark_last, not_finite, turn_off_dropout
from prefopt.llm.quiet import no_bars
from prefopt.llm.reward import both_orders, bradley_terry, outputs, reward_kind
from prefopt.llm.settings import PreferenceConfig
from prefopt.llm.step import exchange_when_last, gather_rows

# what the model reads of a pair, by kind: two texts, each one token sequence in `Example.answers`
ROLES = {"scalar": ("chosen", "rejected"), "pairwise": ("forward", "backward")}


@dataclass(frozen=True)
class RewardExample(Example):
    """A pair of a reward model: `answers` holds two whole token sequences by role, `prompt` is empty.

    scalar: `chosen` and `rejected`. pairwise: `forward` (chosen answer first) and `backward`. margin: what the loss
    demands, nats.
    """

    margin: float = 0.0


class RewardTrainer(Trainer):
    """Trains a model of `load_reward_model` on `RewardExample`s; the loss follows from the model's kind."""

    control: TrainerControl

    def __init__(
        self,
        model: nn.Module,
        args: PreferenceConfig,
        train_dataset: Sequence[RewardExample],
        eval_dataset: Sequence[RewardExample] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.kind = reward_kind(model)  # type: ignore[arg-type]
        self.roles = ROLES[self.kind]
        self._window: list[Table] = []
        turn_off_dropout(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: rows,
            train_dataset=Examples(train_dataset),
            eval_dataset=Examples(eval_dataset) if eval_dataset else None,
            callbacks=[*(callbacks or []), Flow(bool(eval_dataset))],
        )
        self.remove_callback(PrinterCallback)

    # ---- data

    def get_train_dataloader(self) -> DataLoader[Share]:
        """One item per optimizer step."""
        sampler = StepSampler(len(self.train_dataset), self.args.pairs_per_step, self.args.seed)
        return StepLoader(self.train_dataset.examples, sampler, self._collator())

    def _collator(self) -> ShareCollator:
        micro = self.args.micro_batch(self.args.world_size)
        return ShareCollator(self.args.world_size, self.args.process_index, micro)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Share], num_batches: int, device: torch.device
    ) -> tuple[list[Share], None]:
        """The next step; the normaliser is known to the share itself."""
        return [share for _, share in zip(range(num_batches), epoch_iterator, strict=False)], None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    # ---- one step

    def training_step(self, model: nn.Module, inputs: Share, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one optimizer step; returns its loss [], the exact mean over the step.

        Raises:
            PrefoptError: the loss is NaN or infinite.
        """
        model.train()
        scale = self.accelerator.num_processes / inputs.rows  # gradients are averaged over processes
        tables = []
        for slots, is_last in mark_last(inputs.micro_batches):
            with exchange_when_last(self.accelerator, model, is_last):
                table = self._columns(model, slots)
                self.accelerator.backward((table["loss"] * table["weight"] * table["valid"]).sum() * scale)
            tables.append(detached(table))
        found = gather_rows(self.accelerator, tables)
        loss = (found["loss"].double() * found["weight"].double()).sum().item() / inputs.rows
        if not math.isfinite(loss):
            raise PrefoptError(not_finite("the loss", self.state.global_step + 1, ", ".join(inputs.ids[:3])))
        self._window.append(found)
        return torch.tensor(loss, device=self.args.device)

    def _columns(self, model: nn.Module, slots: Sequence[Slot]) -> Table:
        """The model's outputs by role, the loss and the known columns, each [B] fp32."""
        sequences = [slot.example.answers[role] for role in self.roles for slot in slots]
        pad_id = int(self.accelerator.unwrap_model(model).config.pad_token_id)
        with self.accelerator.autocast():
            values = outputs(model, sequences, pad_id)
        one, two = values.split(len(slots))
        known = {
            "valid": [float(slot.valid) for slot in slots],
            "position": [float(slot.position) for slot in slots],
            "weight": [slot.example.weight for slot in slots],
            "margin": [getattr(slot.example, "margin", 0.0) for slot in slots],
        }
        table = {name: torch.tensor(column, device=values.device) for name, column in known.items()}
        loss = bradley_terry if self.kind == "scalar" else both_orders
        return table | {self.roles[0]: one, self.roles[1]: two, "loss": loss(one, two, table["margin"])}

    # ---- log and evaluation

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the rows since the last line; leave out the closing line of wall-clock figures."""
        if "train_runtime" in logs:
            return
        if "loss" in logs and self._window:
            logs.update(self._figures(joined(self._window)))
            self._window = []
        super().log(logs)

    def _figures(self, table: Table) -> dict[str, float]:
        """Exact mean loss (weighted), and share right and mean margin (unweighted)."""
        p = chosen_probability(self.kind, table[self.roles[0]], table[self.roles[1]])
        right = torch.where(p == 0.5, 0.5, (p > 0.5).double())
        return {
            "loss": (table["loss"].double() * table["weight"].double()).mean().item(),
            "rewards/accuracies": right.mean().item(),
            "rewards/margins": (table[self.roles[0]] - table[self.roles[1]]).double().mean().item(),
        }

    def score(self, examples: Sequence[Example]) -> Table:
        """Outputs by role and losses of all examples without gradient, in their order."""
        self.model_wrapped.eval()
        tables = []
        for start in range(0, len(examples), self.args.pairs_per_step):
            share = self._collator()(list(examples[start : start + self.args.pairs_per_step]))
            with torch.no_grad():
                tables.append(
                    gather_rows(
                        self.accelerator, [self._columns(self.model_wrapped, s) for s in share.micro_batches]
                    )
                )
        return joined(tables)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss, share right and margin on held-out pairs."""
        held_out = eval_dataset if eval_dataset is not None else self.eval_dataset
        found = self._figures(self.score([held_out[k] for k in range(len(held_out))]))
        figures = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    # ---- checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. True resumes from the last complete checkpoint in `output_dir`, or starts when there is none.

        Raises:
            PrefoptError: NaN during training.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            checkpoints.remove_incomplete(folder)
        self.accelerator.wait_for_everyone()
        path = checkpoints.last_complete(folder) if resume_from_checkpoint is True else resume_from_checkpoint
        if path:
            window = checkpoints.load_window(Path(path))
            self._window = [window] if window else []
        result = super().train(resume_from_checkpoint=str(path) if path else None, **kwargs)
        self.accelerator.wait_for_everyone()
        return result

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's checkpoint, our window, then the marker; older ones go when this one is whole."""
        if self.control.should_training_stop:
            return
        folder = Path(self._get_output_dir(trial=trial))
        path = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(path, ignore_errors=True)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.save_window(path, joined(self._window))
            checkpoints.mark_complete(path)
            checkpoints.prune(folder, {self.state.global_step})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights and configuration only; the Trainer would add a pickle of its settings."""
        if self.args.should_save:
            module = self.accelerator.unwrap_model(self.model)
            with no_bars():
                module.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)


def chosen_probability(kind: str, one: Tensor, two: Tensor) -> Tensor:
    """P(chosen is better) [B], fp64: sigmoid of the difference of rewards, or the mean of both orders (pairwise)."""
    one, two = one.double(), two.double()
    if kind == "scalar":
        return torch.sigmoid(one - two)
    return (torch.sigmoid(one) + torch.sigmoid(-two)) / 2
