"""Training of reward models: the loss is the exact mean over the step, sum_i w_i l_i / rows, whatever the micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from prefopt.core.errors import Diverged
from prefopt.scoring.reward import both_orders, bradley_terry, outputs, reward_kind
from prefopt.training.collate import Example, Share, Slot
from prefopt.training.forward import Table, detached, mark_last, not_finite, turn_off_dropout
from prefopt.training.settings import PreferenceConfig
from prefopt.training.step import exchange_when_last, gather_rows
from prefopt.training.step_trainer import StepTrainer

# what the model reads of a pair, by kind: two texts, each one token sequence in `Example.answers`
ROLES = {"scalar": ("chosen", "rejected"), "pairwise": ("forward", "backward")}


@dataclass(frozen=True)
class RewardExample(Example):
    """A pair of a reward model: `answers` holds two whole token sequences by role, `prompt` is empty.

    scalar: `chosen` and `rejected`. pairwise: `forward` (chosen answer first) and `backward`. margin: what the loss
    demands, nats.
    """

    margin: float = 0.0


class RewardTrainer(StepTrainer):
    """Trains a model of `load_reward_model` on `RewardExample`s; the loss follows from the model's kind."""

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
        turn_off_dropout(model)
        super().__init__(model, args, train_dataset, eval_dataset, callbacks)

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
            raise Diverged(not_finite("the loss", self.state.global_step + 1, ", ".join(inputs.ids[:3])))
        self._window.append(found)
        return torch.tensor(loss, device=self.args.device)

    def _columns(self, model: nn.Module, slots: Sequence[Slot]) -> Table:
        """The model's outputs by role, the loss and the known columns, each [B] fp32."""
        sequences = [slot.example.answers[role] for role in self.roles for slot in slots]
        with self.accelerator.autocast():
            values = outputs(model, sequences)
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

    def figures(self, table: Table) -> dict[str, float]:
        """Exact mean loss (weighted), and share right and mean margin (unweighted)."""
        p = chosen_probability(self.kind, table[self.roles[0]], table[self.roles[1]])
        right = torch.where(p == 0.5, 0.5, (p > 0.5).double())
        return {
            "loss": (table["loss"].double() * table["weight"].double()).mean().item(),
            "rewards/accuracies": right.mean().item(),
            "rewards/margins": (table[self.roles[0]] - table[self.roles[1]]).double().mean().item(),
        }

    def score_step(self, share: Share, roles: Sequence[str]) -> Table:
        """Outputs by role, known columns and losses of a step's rows."""
        tables = [self._columns(self.model_wrapped, slots) for slots in share.micro_batches]
        return gather_rows(self.accelerator, tables)


def chosen_probability(kind: str, one: Tensor, two: Tensor) -> Tensor:
    """P(chosen is better) [B], fp64: sigmoid of the difference of rewards, or the mean of both orders (pairwise)."""
    one, two = one.double(), two.double()
    if kind == "scalar":
        return torch.sigmoid(one - two)
    return (torch.sigmoid(one) + torch.sigmoid(-two)) / 2
