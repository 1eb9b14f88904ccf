"""The one trainer, on transformers.Trainer: checkpoints, schedules, trackers, PEFT, DDP and FSDP come from there.

Differences from the Trainer, all for exactness:
1. An item of the loader is a whole optimizer step (this process's share of it). Micro-batches are cut inside
   `training_step`, so the loss is the exact mean over the rows of the global step, sum_i w_i l_i / rows, whatever the
   micro-batches and processes, in the last, smaller step of an epoch too.
2. The loss is an argument (a `LossSum`), never a subclass. Losses that couple rows see the whole step: log-probs without
   gradient first, the loss's gradient in them, then one backward per micro-batch.
3. Checkpoints count only with their marker (checkpoints.py), and a resumed run logs the same lines as one that was
   never interrupted. No checkpoint is made at the end: whoever trains saves the model.
4. Nothing of the wall clock enters the log history.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl
from transformers.trainer_callback import PrinterCallback

from prefopt.errors import PrefoptError
from prefopt.llm import checkpoints, distributed, metrics
from prefopt.llm.adapters import merged_weights, save_arguments
from prefopt.llm.callbacks import EarlyStop, Flow
from prefopt.llm.collate import (
    Example,
    Examples,
    Share,
    ShareCollator,
    StepLoader,
    StepSampler,
)
from prefopt.llm.forward import (
    POLICY,
    Table,
    check_examples,
    joined,
    not_finite,
    param_dtype,
    turn_off_dropout,
)
from prefopt.llm.layers import activation_offload, compile_layers
from prefopt.llm.live_reference import Follow, MovingReference, choose_reference
from prefopt.llm.logprobs import token_logps, unwrap
from prefopt.llm.quiet import no_bars
from prefopt.llm.router import RouterLoss, check_router, tell_router_is_off
from prefopt.llm.rows import RowCollator, SharedTokens, default_tokens_per_row
from prefopt.llm.settings import PreferenceConfig
from prefopt.llm.sharded import ShardedTrainer
from prefopt.llm.step import StepRunner
from prefopt.losses import LossSum

logger = logging.getLogger("prefopt.train")


class PreferenceTrainer(ShardedTrainer):
    """Trains `model` on encoded rows with any loss of the library.

    train_dataset, eval_dataset: sequences of `Example`. loss: from `prefopt.losses.build_loss`. Model dropout is
    turned off unless the settings say otherwise (dropout of adapters is left alone).

    Raises:
        PrefoptError: rows that lack what the loss needs, no row, or weights for a loss that cannot take them.
    """

    control: TrainerControl
    starts_at_reference = True  # False (a further round with a fixed reference): rewards do not begin at 0

    def __init__(
        self,
        model: nn.Module,
        args: PreferenceConfig,
        loss: LossSum,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.live = choose_reference(model, args, loss, train_dataset)
        check_examples(train_dataset, loss, live=self.live is not None)
        check_examples(eval_dataset or train_dataset, loss, live=self.live is not None)
        if args.disable_dropout:
            turn_off_dropout(model)
        if args.compile_backend:
            compile_layers(model, args.compile_backend)
        self.preference_loss = loss
        self._window: list[Table] = []
        self._has_warned = False
        self._use_cache = bool(getattr(model.config, "use_cache", True))  # the Trainer changes it
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: rows,
            train_dataset=Examples(train_dataset),
            eval_dataset=Examples(eval_dataset) if eval_dataset else None,
            callbacks=[*(callbacks or []), *_own_callbacks(args, bool(eval_dataset))],
            optimizers=optimizers,
        )
        self.remove_callback(PrinterCallback)
        self._row_tokens = args.max_tokens_per_row or default_tokens_per_row(self.args.device)
        rows = chain(train_dataset, eval_dataset or [])
        shared = (
            [SharedTokens(rows, self._row_tokens, lockstep=args.chosen_strategy in distributed.LOCKSTEP)]
            if args.shared_prefix
            else []
        )
        tokens_of = shared[0] if shared else token_logps
        if self.is_sharded:
            tokens_of = distributed.own_storage(tokens_of)
        self.runner = StepRunner(self.accelerator, loss, tokens_of, self.live, self._router(train_dataset[0]))
        if isinstance(self.live, MovingReference):
            self.add_callback(Follow(self.live))

    def _router(self, example: Example) -> RouterLoss | None:
        """The load-balancing loss, checked against the model's own; where it is off, that is told."""
        causal = unwrap(self.model)
        if self.args.router_loss is None:
            tell_router_is_off(causal)
            return None
        answer = next(iter(example.answers.values()))
        return RouterLoss(self.args.router_loss, check_router(causal, (example.prompt, answer)))

    @property
    def reference_kind(self) -> str | None:
        """Where reference log-probs come from: store, adapter_off, moving; None: the loss reads none."""
        if self.live is None:
            return "store" if self.preference_loss.needs_reference else None
        return "moving" if isinstance(self.live, MovingReference) else "adapter_off"

    # ---- data -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Share]:
        """One item per optimizer step; rows are dealt to the processes here, not by accelerate."""
        examples = self.train_dataset.examples
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = StepSampler(len(examples), self.args.pairs_per_step, seed)
        return StepLoader(examples, sampler, self._collator())

    def _collator(self) -> ShareCollator | RowCollator:
        if self.args.shared_prefix:
            return RowCollator(self.args.world_size, self.args.process_index, self._row_tokens)
        micro = self.args.micro_batch(self.args.world_size)
        return ShareCollator(self.args.world_size, self.args.process_index, micro)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Share], num_batches: int, device: torch.device
    ) -> tuple[list[Share], None]:
        """The next step; the normaliser is known to the share itself."""
        return [share for _, share in zip(range(num_batches), epoch_iterator, strict=False)], None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the history holds nothing that depends on how the work was done."""
        return 0

    # ---- one step ---------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Share, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one optimizer step; returns its loss [], the exact mean over the global step.

        Raises:
            PrefoptError: the loss is NaN or infinite; names the step and the rows.
        """
        model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()
        with activation_offload() if self.args.activation_offload else nullcontext():
            table = self.runner.step(model, inputs, self._progress())
        loss = (table["loss"].double() * table["weight"].double()).sum().item() / inputs.rows
        if not math.isfinite(loss):
            raise PrefoptError(
                not_finite("the loss", self.state.global_step + 1, metrics.bad_rows(table, inputs.ids))
            )
        if self.state.global_step == 0 and self.starts_at_reference:
            self._check_step_zero(table)
        self._window.append(table)
        return torch.tensor(loss, device=self.args.device)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if (
            norm is not None
            and not math.isfinite(float(norm))
            and getattr(self.accelerator, "scaler", None) is None
        ):
            raise PrefoptError(
                not_finite("the gradient", self.state.global_step + 1, "see the rows of this step")
            )
        return norm

    def _progress(self) -> float:
        """Share of the training that is done."""
        return self.state.global_step / max(self.state.max_steps, 1)

    def _check_step_zero(self, table: Table) -> None:
        """The first batch must show rewards of 0; logged always, with a warning when it does not."""
        leaves = self.runner.leaves
        if any(bool(table[f"ref_{name}"].isnan().any()) for name in leaves):
            return
        at_reference = table | {name: table[f"ref_{name}"] for name in leaves}
        expected = self.runner.losses(at_reference, self._progress())
        mixed = self.accelerator.mixed_precision != "no"
        dtype = torch.bfloat16 if mixed else param_dtype(self.model)
        figures = metrics.check_step_zero(table, self.preference_loss, expected, dtype)
        self.log(figures)
        self._tell(metrics.step_zero_warning(figures))

    # ---- log and evaluation -----------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our figures to a training line; leave out the closing line of wall-clock figures."""
        if "train_runtime" in logs:
            return
        if "loss" in logs and self._window:
            logs.update(metrics.summarize(joined(self._window), self.preference_loss))
            self._window = []
            row = {"step": self.state.global_step, **logs}
            first = next((entry for entry in self.state.log_history if "loss" in entry), row)
            if not self._has_warned:
                warning = metrics.fall_warning(row, first)
                self._has_warned = warning is not None
                self._tell(warning)
        super().log(logs)

    def _tell(self, warning: str | None) -> None:
        if warning and self.is_world_process_zero():
            logger.warning("%s", warning)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss and metrics on held-out rows, without gradient, in a fixed order.

        Raises:
            PrefoptError: there is no held-out row.
        """
        held_out = eval_dataset if eval_dataset is not None else self.eval_dataset
        if not held_out:
            raise PrefoptError("evaluation: no held-out row; set data.heldout above 0 or give eval_dataset")
        roles = [role for role in (*POLICY, "kl") if role in held_out[0].answers]
        self.model_wrapped.eval()
        tables = []
        for start in range(0, len(held_out), self.args.pairs_per_step):
            places = range(start, min(start + self.args.pairs_per_step, len(held_out)))
            share = self._collator()([held_out[place] for place in places])
            with torch.no_grad():
                table = self.runner.score(self.model_wrapped, share, roles)
                tables.append(table | {"loss": self.runner.losses(table, self._progress())})
        self.reshard()
        figures = metrics.summarize(joined(tables), self.preference_loss)
        figures = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. True resumes from the last complete checkpoint in `output_dir`, or starts when there is none.

        With `keep="best"` the weights of the best evaluation are loaded at the end.

        Raises:
            PrefoptError: `resume_from_checkpoint` is no complete checkpoint; NaN during training.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            checkpoints.remove_incomplete(folder)
        self.accelerator.wait_for_everyone()
        path = checkpoints.last_complete(folder) if resume_from_checkpoint is True else resume_from_checkpoint
        if path:
            window = checkpoints.load_window(Path(path))
            self._window = [window] if window else []
            if isinstance(self.live, MovingReference):
                self.live.load(Path(path))
        result = super().train(resume_from_checkpoint=str(path) if path else None, **kwargs)
        best = self.state.best_global_step
        if self.args.keep == "best" and best not in (None, 0, self.state.global_step):
            self.state.best_model_checkpoint = str(folder / f"{checkpoints.PREFIX}{best}")
            self._load_best_model()
        self.accelerator.wait_for_everyone()  # whoever removes checkpoints next must not be ahead of a reader
        return result

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics=metrics, trial=trial)
        if self.args.keep == "best":
            self.control.should_save |= is_best
        else:
            self.state.best_global_step = None  # early stopping wants the figure, not the checkpoint
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's checkpoint, our window, then the marker; older ones go when this one is whole."""
        if self.control.should_training_stop:
            return
        folder = Path(self._get_output_dir(trial=trial))
        path = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(path, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.save_window(path, joined(self._window))
            if isinstance(self.live, MovingReference):
                self.live.save(path)
            checkpoints.mark_complete(path)
            kept = [checkpoints.step_of(p) for p in checkpoints.checkpoints(folder)][-(limit or 1) :]
            checkpoints.prune(folder, {*kept, self.state.best_global_step or -1})
        self.accelerator.wait_for_everyone()

    def final_model(self, *, merge: bool) -> tuple[Any, dict[str, Tensor] | None]:
        """The trained model without wrappers, and its weights gathered over processes where it is sharded.

        merge: an adapter is added into the weights. To be called by every process.
        """
        weights = self.gathered_weights()
        module = self.accelerator.unwrap_model(self.model)
        if merge:
            if weights is not None:
                raise PrefoptError("train.lora.merge: not possible on a sharded model; set it to false")
            module = merged_weights(module)
        module.config.use_cache = self._use_cache
        return module, weights

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A checkpoint must fit; tied weights, stored once, are no fault."""
        state = self.model.state_dict()
        missing = set(load_result.missing_keys)
        stored = {value.data_ptr() for name, value in state.items() if name not in missing}
        lost = sorted(name for name in missing if state[name].data_ptr() not in stored)
        if lost or load_result.unexpected_keys:
            name = (lost or load_result.unexpected_keys)[0]
            raise PrefoptError(
                f"the checkpoint in {self.args.output_dir} is of another model ({name}); remove it"
            )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights and configuration only; the Trainer would add a pickle of its settings."""
        if self.args.should_save:
            module = self.accelerator.unwrap_model(self.model)
            with no_bars():
                module.save_pretrained(
                    output_dir or self.args.output_dir, state_dict=state_dict, **save_arguments(module)
                )


def _own_callbacks(args: PreferenceConfig, has_eval: bool) -> list[TrainerCallback]:
    own: list[TrainerCallback] = [Flow(has_eval)]
    if args.early_stopping_patience is not None:
        own.append(EarlyStop(args.early_stopping_patience))
    return own
