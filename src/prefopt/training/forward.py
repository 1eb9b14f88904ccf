"""Small helpers around the model's forward pass, shared by training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prefopt.core.errors import PrefoptError
from prefopt.losses import LossSum
from prefopt.training.collate import Example, Slot

T = TypeVar("T")
Table = dict[str, Tensor]

POLICY = ("chosen", "rejected", "completion")
COUNTS = ("tokens", "chosen_tokens", "rejected_tokens")
PREFIXES = {"chosen_prefix": "chosen", "rejected_prefix": "rejected"}  # LD-DPO: column -> the answer it is of
WPO = "wpo_weight"


def call_through(wrapper: nn.Module, module: nn.Module, function: Callable[[nn.Module], T]) -> T:
    """`function(module)` run inside `wrapper`'s forward, so that the hooks of DDP, FSDP and DeepSpeed see it.

    module: the model inside the wrapper (or the wrapper itself). Its own `forward` is in place again while
    `function` runs.
    """
    own = module.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = own

    def stand_in() -> T:
        restore()
        return function(module)

    module.__dict__["forward"] = stand_in
    try:
        return wrapper()
    finally:
        restore()


def mark_last(batches: Sequence[tuple[Slot, ...]]) -> Iterator[tuple[tuple[Slot, ...], bool]]:
    """Each micro-batch with whether it is the last of its step."""
    for index, slots in enumerate(batches):
        yield slots, index == len(batches) - 1


def detached(table: Mapping[str, Tensor]) -> Table:
    """The columns without their graph."""
    return {name: column.detach() for name, column in table.items()}


def joined(tables: Sequence[Mapping[str, Tensor]]) -> Table:
    """Columns of several tables one after the other, on the CPU."""
    return {name: torch.cat([table[name].cpu() for table in tables]) for name in tables[0]} if tables else {}


def turn_off_dropout(model: nn.Module) -> None:
    """Set every dropout of a model to 0, attention dropout included; adapters keep theirs.

    The policy must give the same log-probs as the reference at step 0, and dropout noise has no use here.
    """
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)


def check_examples(examples: Sequence[Example], loss: LossSum, *, live: bool = False) -> None:
    """Raise unless every row holds what the loss needs.

    live: reference log-probs are computed while training.

    Raises:
        PrefoptError: no row; a missing answer, label or reference log-prob; weights for a loss that sorts its rows.
    """
    if not examples:
        raise PrefoptError("train: no row left to train on; see the dropped rows of the stages before")
    for example in examples:
        missing = missing_input(example, loss, live=live)
        if missing:
            raise PrefoptError(f"train: row {example.id!r} has no {missing}")
    if not loss.weightable and any(example.weight != 1.0 for example in examples):
        raise PrefoptError(
            "train: this loss sorts its rows, weights cannot be applied; use weight.scheme: uniform"
        )


def missing_input(example: Example, loss: LossSum, *, live: bool = False) -> str | None:
    """What of the loss's needs the row lacks, with the remedy; None when it is complete."""
    for role in (role for role in (*POLICY, "kl") if role in loss.needs):
        if role not in example.answers:
            return f"{role!r} answer, which the loss needs"
        wanted = "ref_kl" if role == "kl" else f"ref_{role}"
        if (wanted in loss.needs or role == "kl") and role not in example.reference and not live:
            return f"{wanted}_logps, which the loss needs; run `prefopt reference` first"
    for name in PREFIXES:
        if f"ref_{name}" in loss.needs and name not in example.reference and not live:
            return (
                f"ref_{name}_logps, which ld_alpha needs; run `prefopt reference --prefix_logps true` first"
            )
    if "label" in loss.needs and example.label is None:
        return "label, which the loss needs"
    return None


def not_finite(what: str, step: int, rows: str) -> str:
    """The message that stops a run."""
    return (
        f"train: {what} is NaN or infinite at step {step} (rows: {rows}); likely causes: the learning rate is too "
        "high, max_grad_norm is 0, half precision overflows, or a row's reference log-prob or weight is not a number"
    )


def param_dtype(model: nn.Module) -> Any:
    """The dtype of the model's first floating-point parameter."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
