"""A Trainer whose loader gives whole optimizer steps, and whose checkpoints count only with their marker.

Differences from transformers' Trainer, all for exactness:
1. An item of the loader is a whole optimizer step (this process's share of it). Whoever extends this cuts micro-batches
   inside `training_step`, so that the loss is the exact mean over the rows of the global step.
2. The per-row figures since the last log line are kept with a checkpoint: a resumed run logs the same lines as one that
   was never interrupted. No checkpoint is made at the end: whoever trains saves the model.
3. Nothing of the wall clock enters the log history.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.trainer_callback import PrinterCallback

from prefopt.core.errors import PrefoptError
from prefopt.models.lora import save_arguments
from prefopt.models.quiet import no_bars
from prefopt.training import checkpoints
from prefopt.training.callbacks import ByTime, EarlyStop, Flow
from prefopt.training.collate import Example, Examples, Share, ShareCollator, StepLoader, StepSampler
from prefopt.training.forward import Table, joined
from prefopt.training.rows import RowCollator
from prefopt.training.schedule import SCHEDULES, rate, warm_steps
from prefopt.training.settings import PreferenceConfig

logger = logging.getLogger("prefopt.train")


class StepTrainer(Trainer):
    """The part of training that no loss and no model changes: loader, log, evaluation, checkpoints.

    `training_step` adds a step's rows to `_window`; `figures` says what they come to, `score_step` makes them without
    gradient.
    """

    control: TrainerControl

    def __init__(
        self,
        model: nn.Module,
        args: PreferenceConfig,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **more: Any,
    ) -> None:
        self._window: list[Table] = []
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: rows,
            train_dataset=Examples(train_dataset),
            eval_dataset=Examples(eval_dataset) if eval_dataset else None,
            callbacks=[*(callbacks or []), *_own_callbacks(args, bool(eval_dataset))],
            **more,
        )
        self.remove_callback(PrinterCallback)

    def figures(self, table: Table) -> dict[str, float]:
        """Exact means over rows, by the names of the log."""
        raise NotImplementedError

    def score_step(self, share: Share, roles: Sequence[str]) -> Table:
        """The rows of a step with their losses, without gradient. roles: of the answers they have."""
        raise NotImplementedError

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedules of `training.schedule`, whose first step trains; any other is transformers' own."""
        name = getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)
        if self.lr_scheduler is not None or name not in SCHEDULES:  # type: ignore[has-type]
            return super().create_scheduler(num_training_steps, optimizer)
        warm = warm_steps(self.args.warmup_steps, num_training_steps)
        if self.args.warmup_steps >= 1 and warm < self.args.warmup_steps:
            logger.warning(
                "warmup: %d steps of a training of %d; %d are taken",
                self.args.warmup_steps,
                num_training_steps,
                warm,
            )
        shares = partial(rate, name, steps=num_training_steps, warm=warm)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, shares)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- data -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Share]:
        """One item per optimizer step; rows are dealt to the processes here, not by accelerate."""
        examples = self.train_dataset.examples
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = StepSampler(len(examples), self.args.pairs_per_step, seed)
        return StepLoader(examples, sampler, self._collator())

    def _collator(self) -> ShareCollator | RowCollator:
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

    # ---- log and evaluation -----------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the rows since the last line; leave out the closing line of wall-clock figures."""
        if "train_runtime" in logs:
            return
        if "loss" in logs and self._window:
            logs.update(self.figures(joined(self._window)))
            self._window = []
            self.look_at({"step": self.state.global_step, **logs})
        super().log(logs)

    def look_at(self, row: Mapping[str, Any]) -> None:
        """Called with every line of training before it is logged."""

    def score(self, examples: Sequence[Example] | Examples) -> Table:
        """The rows of all examples with their losses, without gradient, in their order."""
        self.model_wrapped.eval()
        roles = list(examples[0].answers)
        tables = []
        for start in range(0, len(examples), self.args.pairs_per_step):
            places = range(start, min(start + self.args.pairs_per_step, len(examples)))
            share = self._collator()([examples[place] for place in places])
            with torch.no_grad():
                tables.append(self.score_step(share, roles))
        return joined(tables)

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
        found = self.figures(self.score(held_out))
        figures = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. True resumes from the last whole checkpoint in `output_dir`, or starts when there is none.

        Damaged checkpoints are left out with a warning. With `keep="best"` the weights of the best evaluation are
        loaded at the end.

        Raises:
            PrefoptError: `resume_from_checkpoint` is no whole checkpoint; NaN during training; a full disk.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            checkpoints.remove_incomplete(folder)
            if resume_from_checkpoint is True:
                self._leave_out_damaged(folder)
        self.accelerator.wait_for_everyone()
        path = checkpoints.last_complete(folder) if resume_from_checkpoint is True else resume_from_checkpoint
        if path and resume_from_checkpoint is not True:
            checkpoints.check_whole(Path(path))
        if path:
            self.read_own(Path(path))
        result = super().train(resume_from_checkpoint=str(path) if path else None, **kwargs)
        best = self.state.best_global_step
        if self.args.keep == "best" and best not in (None, 0, self.state.global_step):
            self.state.best_model_checkpoint = str(folder / f"{checkpoints.PREFIX}{best}")
            checkpoints.check_whole(Path(self.state.best_model_checkpoint))
            self._load_best_model()
        if self.args.should_save:
            there = [checkpoints.step_of(p) for p in checkpoints.checkpoints(folder)]
            checkpoints.prune(folder, {*filter(self._is_regular, there), best or -1})
        self.accelerator.wait_for_everyone()  # whoever removes checkpoints next must not be ahead of a reader
        return result

    def _leave_out_damaged(self, folder: Path) -> None:
        lines = checkpoints.remove_damaged(folder)
        if lines:
            start = checkpoints.last_complete(folder)
            logger.warning(
                "%s; training goes on from %s", "; ".join(lines), start.name if start else "its beginning"
            )

    def read_own(self, path: Path) -> None:
        """Read from a checkpoint what the Trainer knows nothing of."""
        window = checkpoints.load_window(path)
        self._window = [window] if window else []

    def write_own(self, path: Path) -> None:
        """Write to a checkpoint what `read_own` reads."""
        checkpoints.save_window(path, joined(self._window))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics=metrics, trial=trial)
        if self.args.keep == "best":
            self.control.should_save |= is_best
        else:
            self.state.best_global_step = None  # early stopping wants the figure, not the checkpoint
        return is_best

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's checkpoint, our own part, then the marker; older ones go when this one is whole."""
        if self.control.should_training_stop:
            return
        folder = Path(self._get_output_dir(trial=trial))
        path = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(path, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with checkpoints.writing(path):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with checkpoints.writing(path):
                self.write_own(path)
                checkpoints.mark_complete(path)
            there = [checkpoints.step_of(p) for p in checkpoints.checkpoints(folder)]
            kept = [step for step in there if self._is_regular(step)][-(limit or 1) :]
            checkpoints.prune(folder, {*kept, there[-1], self.state.best_global_step or -1})
        self.accelerator.wait_for_everyone()

    def _is_regular(self, step: int) -> bool:
        """Whether a checkpoint is by steps: those by time are of the wall clock, and none stays when training is done."""
        return self.args.save_minutes is None or step % max(1, int(self.state.save_steps)) == 0

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
    if args.save_minutes is not None:
        own.append(ByTime(args.save_minutes))
    if args.early_stopping_patience is not None:
        own.append(EarlyStop(args.early_stopping_patience))
    return own
