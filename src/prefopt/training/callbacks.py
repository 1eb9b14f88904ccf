"""What happens between optimizer steps: the last log line and evaluation, early stopping, checkpoints by time, the progress bar, trackers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from accelerate.utils import broadcast_object_list
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


class ByTime(TrainerCallback):
    """A checkpoint when the last one is `minutes` old, so that a run of few long steps can be gone on with too.

    Clocks differ: of several processes the first one's counts.
    """

    def __init__(self, minutes: float | int) -> None:
        self.seconds = 60.0 * minutes
        self.since = monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The time before the first step (loading, compiling) is none of the training."""
        self.since = monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every optimizer step."""
        due = [monotonic() - self.since >= self.seconds]
        if args.world_size > 1:
            broadcast_object_list(due)
        control.should_save |= due[0]

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every checkpoint, whatever asked for it."""
        self.since = monotonic()


# figure of the Trainer's log -> what it is called on the terminal
SHOWN = (
    ("loss", "loss {:.4f}"),
    ("rewards/accuracies", "accuracy {:.3f}"),
    ("learning_rate", "learning rate {:.2e}"),
    ("eval_loss", "held-out loss {:.4f}"),
    ("eval_rewards/accuracies", "held-out accuracy {:.3f}"),
)


class Bar(TrainerCallback):
    """Tells a progress bar of every step, and `note` of every logged one; a resumed run starts where the checkpoint was.

    started_at: the step that this process began with.
    """

    def __init__(
        self, advance: Callable[[int], None], note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.advance = advance
        self.note = note
        self.started_at = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer when the state is restored."""
        self.started_at = state.global_step
        self.advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Called by the Trainer every `logging_steps`, and with held-out figures."""
        figures = [text.format(logs[name]) for name, text in SHOWN if logs and name in logs]
        if figures:
            self.note(f"step {state.global_step} of {state.max_steps}, {', '.join(figures)}")

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
