"""The Trainer for models that may be sharded by FSDP2: set up, checkpoints of whole tensors, and optimizers.

The Trainer itself knows accelerate's FSDP, whose checkpoints belong to one number of processes, and which a CPU silently
gets none of. Here a checkpoint is the one of a run with one process (`distributed`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from prefopt.core.errors import PrefoptError
from prefopt.training import distributed


class Applied(TrainerCallback):
    """Stops a run whose strategy was asked for but not applied, before its first step."""

    def __init__(self, trainer: ShardedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer when the model is wrapped."""
        model = self.trainer.model_wrapped
        distributed.check_applied(args.chosen_strategy, model)
        stage = model.zero_optimization_stage() if args.chosen_strategy == "deepspeed" else 0
        if stage == 3 and getattr(args, "shared_prefix", False):
            # it wants every forward pass alike, and the check of shared prefixes is not
            raise PrefoptError(
                "train.shared_prefix: not possible with DeepSpeed's ZeRO-3; take ZeRO-2, fsdp2 or shared_prefix: false"
            )


class ShardedTrainer(Trainer):
    """A Trainer whose model is sharded where `args.chosen_strategy` is "fsdp2"; all else is the Trainer's own."""

    def __init__(self, model: nn.Module, args: Any, **more: Any) -> None:
        self.is_sharded = args.chosen_strategy == "fsdp2"
        if self.is_sharded:
            _check_settings(args)
            distributed.shard(model, args.device, mixed=args.bf16)
        super().__init__(model=model, args=args, **more)
        self.add_callback(Applied(self))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's.

        Raises:
            PrefoptError: the optimizer is of a package that is not installed.
        """
        try:
            optimizer = super().create_optimizer(*args, **kwargs)
            ratio = getattr(self.args, "loraplus_lr_ratio", None)
            return optimizer if ratio is None else self._with_faster_b(optimizer, ratio)
        except (ImportError, ValueError) as error:
            if "install" not in str(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PrefoptError(f"train.optimizer: {self.args.optim.value}: {reason}") from None

    def _with_faster_b(self, optimizer: Any, ratio: float) -> Any:
        """LoRA+ (2402.12354): the B matrices of the adapter learn `ratio` times as fast, in groups of their own."""
        names = ("lora_B", "lora_embedding_B")
        fast = {id(w) for name, w in self.model.named_parameters() if any(part in name for part in names)}
        if not fast or not hasattr(optimizer, "param_groups") or self.args.chosen_strategy == "deepspeed":
            raise PrefoptError(
                "train.lora.loraplus_lr_ratio: needs an adapter with B matrices, and an optimizer of this process (no "
                "DeepSpeed); remove it"
            )
        for group in list(optimizer.param_groups):
            mine = [weight for weight in group["params"] if id(weight) in fast]
            group["params"] = [weight for weight in group["params"] if id(weight) not in fast]
            if mine:
                optimizer.param_groups.append({**group, "params": mine, "lr": group["lr"] * ratio})
        return optimizer

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.is_sharded:  # its shards are there already
            super()._move_model_to_device(model, device)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return distributed.whole(super()._get_grad_norm(model, grad_norm=grad_norm), keep=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model's directory; to be called by every process."""
        if self.is_sharded:
            self._save(output_dir, state_dict=distributed.whole_weights(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = distributed.whole_state(self.optimizer.state_dict(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        distributed.load_optimizer(self.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_sharded:
            distributed.load_weights(model or self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_sharded:
            distributed.load_weights(self.model, Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()

    def reshard(self) -> None:
        """Free the weights that a forward pass without a backward pass has left gathered."""
        if self.is_sharded:
            self.model.reshard()

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """The weights of a sharded model put together (in the first process), None for a model that is whole.

        To be called by every process.
        """
        if self.is_sharded:
            return distributed.whole_weights(self.model)
        if not self.is_deepspeed_enabled:
            return None
        weights = self.accelerator.get_state_dict(self.model_wrapped) or {}
        first = distributed.tied_names(self.accelerator.unwrap_model(self.model_wrapped))
        return {name: weights.get(first.get(name, name), value) for name, value in weights.items()}


def _check_settings(args: Any) -> None:
    """Refuse what sharded weights do not allow."""
    distributed.check_optimizer(args.optim.value)
    if getattr(args, "router_loss", None) is not None:
        # gradients would reach a layer's router past the hook that gathers its weights
        raise PrefoptError(
            "train.router_loss: not possible on a sharded model (fsdp2); use ddp, or remove it"
        )
