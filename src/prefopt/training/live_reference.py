"""Reference log-probs computed while training: the model with its adapter off, or a copy of the weights that follows it.

Both run the policy's own forward pass on the policy's own rows, without gradient and without dropout, so at the first
step rewards are exactly 0 in any precision. They cost that forward pass in every step; the store (04-reference) does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefopt.core.errors import PrefoptError
from prefopt.losses import LossSum
from prefopt.models.lora import base_is_kept
from prefopt.training.collate import Example
from prefopt.training.settings import PreferenceConfig

logger = logging.getLogger("prefopt.train")

FILE = "reference.safetensors"
KINDS = ("auto", "store", "adapter_off")


# turns the model into the reference, in eval mode, for the length of a block
LiveReference = Callable[[nn.Module], AbstractContextManager[None]]


class AdapterOff:
    """The reference is the model without its adapter: no store and no second model (LoRA, QLoRA)."""

    @contextmanager
    def __call__(self, module: nn.Module) -> Iterator[None]:
        """As `LiveReference`."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        parts = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        layers: list[Any] = [part for part in module.modules() if isinstance(part, parts)]
        # peft's own switch also freezes the adapter for that time, which sharded parameters would remember
        with _without_dropout(module):
            try:
                for layer in layers:
                    layer._disable_adapters = True
                yield
            finally:
                for layer in layers:
                    layer._disable_adapters = False


class MovingReference:
    """A copy of the trained weights that follows them (TR-DPO, 2404.09656): ref <- alpha policy + (1 - alpha) ref.

    alpha 1 is the paper's hard update (eq. 6), below 1 its soft update (eq. 5), 0 never moves. Frozen weights are
    shared with the model, so that with an adapter the copy is as small as the adapter.
    """

    def __init__(self, model: nn.Module, *, alpha: float, every_steps: int) -> None:
        self.alpha, self.every_steps = alpha, every_steps
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.copies = [weight.detach().clone() for weight in self.weights]

    @contextmanager
    def __call__(self, module: nn.Module) -> Iterator[None]:
        """As `LiveReference`.

        Raises:
            PrefoptError: the model is sharded over processes.
        """
        if any(hasattr(weight, "device_mesh") or hasattr(weight, "ds_id") for weight in module.parameters()):
            raise PrefoptError(
                "train.sync_reference: not possible on a sharded model (FSDP, ZeRO); use DDP or remove it"
            )
        if self.weights and self.copies[0].device != self.weights[0].device:
            pairs = zip(self.copies, self.weights, strict=True)
            self.copies = [copy.to(weight.device) for copy, weight in pairs]
        with _without_dropout(module):
            self._swap()
            try:
                yield
            finally:
                self._swap()

    def _swap(self) -> None:
        for index, weight in enumerate(self.weights):
            weight.data, self.copies[index] = self.copies[index], weight.data

    @torch.no_grad()
    def follow(self) -> None:
        """One update of the reference, in fp32."""
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.copy_(weight if self.alpha == 1 else copy.float().lerp(weight.float(), self.alpha))

    def save(self, folder: Path) -> None:
        """Write the reference's weights into a checkpoint."""
        save_file(
            {name: copy.contiguous() for name, copy in zip(self.names, self.copies, strict=True)},
            folder / FILE,
        )

    def load(self, folder: Path) -> None:
        """Take the reference's weights of `save`.

        Raises:
            PrefoptError: the checkpoint holds none, or those of another model.
        """
        if not (folder / FILE).is_file():
            raise PrefoptError(f"{folder}: made without sync_reference ({FILE} is missing); remove it")
        stored: dict[str, Tensor] = load_file(folder / FILE)
        if sorted(stored) != sorted(self.names):
            raise PrefoptError(f"{folder / FILE}: of another model; remove the checkpoint")
        for name, copy in zip(self.names, self.copies, strict=True):
            copy.copy_(stored[name])


class Follow(TrainerCallback):
    """Moves the reference behind every `every_steps`-th optimizer step, before the step's checkpoint."""

    def __init__(self, reference: MovingReference) -> None:
        self.reference = reference

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every optimizer step."""
        if state.global_step % self.reference.every_steps == 0:
            self.reference.follow()


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def choose_reference(
    model: nn.Module, args: PreferenceConfig, loss: LossSum, examples: Sequence[Example]
) -> LiveReference | None:
    """The reference that training computes itself, None where the rows' stored log-probs are used (or none at all).

    Raises:
        PrefoptError: settings that the model or the loss cannot take.
    """
    if args.reference not in KINDS:
        raise PrefoptError(f"reference: {args.reference!r}; it is {', '.join(KINDS)}")
    has_adapter = hasattr(model, "peft_config")
    if args.reference == "adapter_off" and not has_adapter:
        raise PrefoptError("train.reference: adapter_off needs an adapter; set lora, or take the store")
    if args.sync_reference is not None:
        return _moving(model, args.sync_reference, loss, has_adapter)
    if not loss.needs_reference:
        return None
    is_off = args.reference == "adapter_off" or (
        args.reference == "auto" and has_adapter and not _is_stored(examples, loss)
    )
    if is_off and not base_is_kept(model):
        raise PrefoptError(
            "train.lora: with this init_lora_weights or bias the model with its adapter off is not the base, so it is no "
            "reference; run `prefopt reference` first (or take the stage in the recipe)"
        )
    if is_off and args.reference == "auto":
        logger.info("reference: the rows hold no reference log-probs; taking the model with its adapter off")
    return AdapterOff() if is_off else None


def _moving(model: nn.Module, settings: Any, loss: LossSum, has_adapter: bool) -> MovingReference:
    alpha, every_steps = float(settings["alpha"]), int(settings["every_steps"])
    if not loss.needs_reference:
        raise PrefoptError("train.sync_reference: the loss reads no reference; remove it")
    if not 0 <= alpha <= 1 or every_steps < 1:
        raise PrefoptError("train.sync_reference: alpha is from 0 to 1, every_steps at least 1")
    if has_adapter and alpha not in (0, 1):
        # the mean of two products B A is not the product of mean factors
        raise PrefoptError("train.sync_reference: with an adapter alpha must be 1 (hard update)")
    return MovingReference(model, alpha=alpha, every_steps=every_steps)


def _is_stored(examples: Sequence[Example], loss: LossSum) -> bool:
    """Whether every row holds the reference log-probs that the loss reads."""
    wanted = [name.removeprefix("ref_") for name in loss.needs if name.startswith("ref_") or name == "kl"]
    return all(name in example.reference for example in examples for name in wanted)
