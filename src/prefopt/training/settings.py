"""Settings of the trainer: those of transformers' Trainer, with a global batch given in pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, no_type_check

from transformers import TrainingArguments

from prefopt.core.errors import PrefoptError
from prefopt.training.distributed import Strategy, check_request, choose_strategy

DEFAULT_MICRO_BATCH = 8


@no_type_check  # the Trainer's own fields are declared more narrowly than they are used (an int for a float)
@dataclass
class PreferenceConfig(TrainingArguments):
    """TrainingArguments with the conventions of preference training.

    pairs_per_step: rows of an optimizer step over all processes (the global batch).
    pairs_per_micro_batch: rows of one forward pass in one process; None = the largest divisor up to 8 of a process's
    share. shared_prefix: packed rows of at most max_tokens_per_row tokens (None = by device) in place of padded
    micro-batches; a prompt is computed once for its answers; None = where the model can and no micro-batch is set. keep: "last" or "best", which weights the model holds at the end; best by `metric_for_best_model` (eval loss
    unless set). early_stopping_patience: evaluations without a new best before training stops; None = never.
    save_minutes: also a checkpoint when the last one is so old; None = by save_steps alone.
    reference: "store" takes the rows' log-probs, "adapter_off" the model without its adapter, "auto" the latter where an
    adapter is trained and the rows hold none. sync_reference: {"alpha", "every_steps"}, a reference that follows the
    model (TR-DPO). router_loss: factor of the load-balancing loss of a mixture of experts; None = off.
    strategy: "none", "ddp", "fsdp2" or "deepspeed" (with `deepspeed`); None = by the launcher. torch_compile: here of the
    decoder layers. activation_offload: what the backward pass needs lies in host memory meanwhile. attention: an implementation of
    transformers that the model changes to; None = its own. loraplus_lr_ratio: learning rate of an adapter's B over that of its A
    (LoRA+); None = one rate.
    """

    pairs_per_step: int = 64
    pairs_per_micro_batch: int | None = None
    shared_prefix: bool | None = None
    max_tokens_per_row: int | None = None
    keep: str = "last"
    early_stopping_patience: int | None = None
    save_minutes: float | None = None
    reference: str = "auto"
    sync_reference: dict | None = None
    router_loss: float | None = None
    strategy: str | None = None
    activation_offload: bool = False
    attention: str | None = None
    loraplus_lr_ratio: float | None = None
    disable_dropout: bool = True
    learning_rate: float = 1e-6
    num_train_epochs: float = 1.0
    lr_scheduler_type: Any = "cosine"
    warmup_steps: float = 0.1
    logging_steps: float = 10
    save_total_limit: int | None = 1
    disable_tqdm: bool | None = True
    logging_nan_inf_filter: bool = False
    ddp_find_unused_parameters: bool | None = False
    remove_unused_columns: bool | None = False
    restore_callback_states_from_checkpoint: bool = True
    report_to: Any = field(default="none")

    def __post_init__(self) -> None:
        """Check what the Trainer does not know of.

        Raises:
            PrefoptError: a global batch that does not divide, a strategy that cannot be had, or settings that
                contradict each other.
        """
        check_request(self.strategy, self.deepspeed)
        # the Trainer would compile the whole model, whose input here is rows of any length
        backend, wanted = vars(self)["torch_compile_backend"], vars(self)["torch_compile"]
        self.compile_backend: str | None = (backend or "inductor") if wanted else None
        self.torch_compile, self.torch_compile_backend = False, None
        if self.keep not in ("last", "best"):
            raise PrefoptError(f"keep: {self.keep!r}; it is 'last' or 'best'")
        if self.keep == "best" or self.early_stopping_patience is not None:
            self.metric_for_best_model: str | None = self.metric_for_best_model or "loss"
        self._check_rows()
        if self.gradient_accumulation_steps != 1:
            raise PrefoptError(
                "gradient_accumulation_steps is not set by hand: it follows from pairs_per_step and "
                "pairs_per_micro_batch"
            )
        super().__post_init__()
        self._n_gpu = min(self.n_gpu, 1)  # one device per process: several are started by torchrun
        if self.keep == "best" and str(self.save_strategy) not in ("SaveStrategy.STEPS", "steps"):
            raise PrefoptError("keep: best needs checkpoints; set save_strategy to 'steps'")
        self.per_device_train_batch_size = self.micro_batch(self.world_size)
        self.chosen_strategy: Strategy = choose_strategy(self.strategy, self.deepspeed, self.world_size)

    def _check_rows(self) -> None:
        if self.shared_prefix and self.pairs_per_micro_batch is not None:
            raise PrefoptError(
                "pairs_per_micro_batch is not used with shared_prefix: a row holds what fits; set max_tokens_per_row"
            )
        if self.max_tokens_per_row is not None and self.shared_prefix is None:
            self.shared_prefix = self.pairs_per_micro_batch is None
        if self.max_tokens_per_row is not None and not self.shared_prefix:
            raise PrefoptError(
                "max_tokens_per_row is of packed rows; remove it, or shared_prefix: false and pairs_per_micro_batch"
            )
        if self.max_tokens_per_row is not None and self.max_tokens_per_row < 1:
            raise PrefoptError(f"max_tokens_per_row: {self.max_tokens_per_row}; give at least 1")

    def micro_batch(self, processes: int) -> int:
        """Rows of one forward pass in one process.

        Raises:
            PrefoptError: pairs_per_step does not divide by the processes, or a share by the micro-batch.
        """
        if self.pairs_per_step < 1 or self.pairs_per_step % processes:
            raise PrefoptError(
                f"pairs_per_step: {self.pairs_per_step} pairs cannot be split over {processes} processes; "
                f"give a multiple of {processes}"
            )
        share = self.pairs_per_step // processes
        if self.pairs_per_micro_batch is None:
            return max(size for size in range(1, min(share, DEFAULT_MICRO_BATCH) + 1) if share % size == 0)
        if self.pairs_per_micro_batch < 1 or share % self.pairs_per_micro_batch:
            of = f"pairs_per_step {self.pairs_per_step}" + (
                f" / {processes} processes" if processes > 1 else ""
            )
            raise PrefoptError(
                f"pairs_per_micro_batch: {self.pairs_per_micro_batch} does not divide the {share} pairs of a step "
                f"({of}); give a divisor of {share}"
            )
        return self.pairs_per_micro_batch
