"""The one trainer, on transformers.Trainer: checkpoints, schedules, trackers, PEFT, DDP and FSDP come from there.

The loader, the log and the checkpoints are those of `step_trainer`. Besides:
1. The loss is the exact mean over the rows of the global step, sum_i w_i l_i / rows, whatever the micro-batches and
   processes, in the last, smaller step of an epoch too.
2. The loss is an argument (a `LossSum`), never a subclass. Losses that couple rows see the whole step: log-probs without
   gradient first, the loss's gradient in them, then one backward per micro-batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from prefopt.core.errors import Diverged, PrefoptError
from prefopt.losses import LossSum
from prefopt.models.adapters import merged_weights
from prefopt.scoring.body import unwrap
from prefopt.scoring.logprobs import check_model, token_logps
from prefopt.scoring.router import RouterLoss, check_router, tell_router_is_off
from prefopt.scoring.segments import choose_attention
from prefopt.scoring.workspace import Workspace
from prefopt.training import distributed, metrics
from prefopt.training.collate import Example, Examples, Share, ShareCollator
from prefopt.training.forward import POLICY, Table, check_examples, not_finite, param_dtype, turn_off_dropout
from prefopt.training.layers import activation_offload, compile_layers
from prefopt.training.live_reference import Follow, MovingReference, choose_reference
from prefopt.training.rows import RowCollator, SharedTokens, default_tokens_per_row, shares_prefixes
from prefopt.training.settings import PreferenceConfig
from prefopt.training.sharded import ShardedTrainer
from prefopt.training.step import StepRunner
from prefopt.training.step_trainer import StepTrainer

logger = logging.getLogger("prefopt.train")


class PreferenceTrainer(StepTrainer, ShardedTrainer):
    """Trains `model` on encoded rows with any loss of the library.

    train_dataset, eval_dataset: sequences of `Example`. loss: from `prefopt.losses.build_loss`. Model dropout is
    turned off unless the settings say otherwise (dropout of adapters is left alone).

    Raises:
        PrefoptError: rows that lack what the loss needs, no row, or weights for a loss that cannot take them.
    """

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
        if args.attention is not None:
            choose_attention(unwrap(model), args.attention)
        if args.disable_dropout:
            turn_off_dropout(model)
        if args.compile_backend:
            compile_layers(model, args.compile_backend)
        self.preference_loss = loss
        self._has_warned = False
        self._use_cache = bool(getattr(model.config, "use_cache", True))  # the Trainer changes it
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if args.chosen_strategy in ("none", "ddp"):  # elsewhere a forward pass here has no whole weights
            example = train_dataset[0]
            check_model(unwrap(self.model), (example.prompt, next(iter(example.answers.values()))))
        args.shared_prefix = shares_prefixes(model, args)
        self._row_tokens = args.max_tokens_per_row or default_tokens_per_row(self.args.device)
        rows = chain(train_dataset, eval_dataset or [])
        lockstep = args.chosen_strategy in distributed.LOCKSTEP
        workspace = Workspace(adds_gradients=args.chosen_strategy == "none")
        shared = (
            [
                SharedTokens(
                    rows,
                    self._row_tokens,
                    lockstep=lockstep,
                    workspace=workspace,
                    may_shorten=args.max_tokens_per_row is None,
                )
            ]
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

    def _collator(self) -> ShareCollator | RowCollator:
        if self.args.shared_prefix:
            return RowCollator(self.args.world_size, self.args.process_index, self._row_tokens)
        return super()._collator()

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
            raise Diverged(
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
            raise Diverged(
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

    def figures(self, table: Table) -> dict[str, float]:
        """Loss and metrics of rows."""
        return metrics.summarize(table, self.preference_loss)

    def look_at(self, row: Mapping[str, Any]) -> None:
        """Warn, once, of chosen answers that become unlikely."""
        first = next((entry for entry in self.state.log_history if "loss" in entry), row)
        if not self._has_warned:
            warning = metrics.fall_warning(row, first)
            self._has_warned = warning is not None
            self._tell(warning)

    def _tell(self, warning: str | None) -> None:
        if warning and self.is_world_process_zero():
            logger.warning("%s", warning)

    def score_step(self, share: Share, roles: Sequence[str]) -> Table:
        """Log-probs, known columns and losses of a step's rows."""
        table = self.runner.score(self.model_wrapped, share, [r for r in (*POLICY, "kl") if r in roles])
        return table | {"loss": self.runner.losses(table, self._progress())}

    def score(self, examples: Sequence[Example] | Examples) -> Table:
        """Log-probs, known columns and losses of all examples, without gradient, in their order."""
        table = super().score(examples)
        self.reshard()
        return table

    # ---- checkpoints and the result ---------------------------------------------------------------------------

    def read_own(self, path: Path) -> None:
        """The window, and the reference that follows the model."""
        super().read_own(path)
        if isinstance(self.live, MovingReference):
            self.live.load(path)

    def write_own(self, path: Path) -> None:
        """The window, and the reference that follows the model."""
        super().write_own(path)
        if isinstance(self.live, MovingReference):
            self.live.save(path)

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
