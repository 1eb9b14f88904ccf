"""What happens between optimizer steps: the last log line and evaluation, early stopping, the progress bar, trackers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import EarlyStoppingCallback


class Flow(TrainerCallback):
    """Log, and evaluate where there are held-out rows, at the very end too."""

    def __init__(self, has_eval: bool) -> None:
        self.has_eval = has_eval

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every optimizer step."""
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = self.has_eval


class EarlyStop(EarlyStoppingCallback):
    """The Trainer's early stopping, which here needs no `load_best_model_at_end`; logs what is left."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """No demand on the Trainer's own handling of the best model."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Count evaluations without a new best."""
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop:
            control.should_log = True


class Bar(TrainerCallback):
    """Tells a progress bar of every step; a resumed run starts where the checkpoint was."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer when the state is restored."""
        self.advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every optimizer step."""
        self.advance(1)


def tensorboard(folder: Path) -> TrainerCallback:
    """Writes TensorBoard files to `folder` (the Trainer's own would lie among the checkpoints)."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
