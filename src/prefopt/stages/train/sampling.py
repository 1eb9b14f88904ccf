"""Answers while training (`train.sample_steps`): a few prompts, greedily, every so many steps, into `samples.jsonl` of the stage.

Greedy, so that two lines differ by the training alone and no random number is drawn. Nothing of the training changes: the
modes of the modules, the model's generation settings and all random states are as they were, and a resumed training
writes the lines that it has not written, so that the file is the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefopt.core.errors import PrefoptError
from prefopt.core.terminal import one_line
from prefopt.engines import Completion, Sampling
from prefopt.engines.transformers_engine import TransformersEngine
from prefopt.models.quiet import seeded
from prefopt.models.template import Unfit
from prefopt.rules.content import text_of
from prefopt.scoring.body import unwrap
from prefopt.stages.train.samples_file import read_samples
from prefopt.tables.progress import say
from prefopt.tables.records import Row, atomic_file

logger = logging.getLogger("prefopt.train")
SHOWN = 60  # characters of prompt and answer in the log


class Samples(TrainerCallback):
    """Writes answers before the first step, every `every` steps and after the last one.

    rows: whose prompts are answered; `chosen_prompts` picks them. tokens: longest answer. path: the JSONL file.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, every: int, tokens: int, path: Path) -> None:
        self.rows = list(rows)
        self.tokenizer = tokenizer
        self.every = every
        self.sampling = Sampling(temperature=0.0, max_new_tokens=tokens)
        self.path = path
        self.lines: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer when the state is restored: lines beyond it are of a process that was killed."""
        self.lines = [line for line in read_samples(self.path) if line["step"] <= state.global_step]
        if state.global_step == 0:
            self.lines = []
            self._write(kwargs["model"], 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after every optimizer step, before its checkpoint."""
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if self.rows and (state.global_step % self.every == 0 or is_last):
            self._write(kwargs["model"], state.global_step)

    def _write(self, model: nn.Module, step: int) -> None:
        try:
            found = self._answers(unwrap(model))
        except (PrefoptError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            logger.warning("train: no samples from step %d on: %s", step, one_line(error)[:200])
            self.rows = []
            return
        for row, answer in zip(self.rows, found, strict=True):
            self.lines.append({
                "step": step, "prompt_id": row.get("prompt_id"), "prompt": text_of(row["prompt"]), "completion": answer.text,
                "finish_reason": answer.finish_reason, "tokens": len(answer.token_ids or ()),
            })  # fmt: skip
        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        if found:
            asked, said = (_short(text) for text in (self.lines[-len(found)]["prompt"], found[0].text))
            say(f"train: step {step}, sample: {asked} -> {said}")

    def _answers(self, model: Any) -> list[Completion]:
        with _untouched(model):
            engine = TransformersEngine(model, self.tokenizer, "")
            prompts = []
            for row in list(self.rows):
                try:
                    ids = engine.encode(row)
                except Unfit:
                    ids = []
                if ids and (engine.max_tokens is None or len(ids) < engine.max_tokens):
                    prompts.append(ids)
                else:
                    self.rows.remove(row)
            return engine.write(prompts, self.sampling, 0) if prompts else []


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """The model for answers inside the block, and as it was behind it."""
    modes = [(module, module.training) for module in model.modules()]
    settings = model.generation_config
    try:
        with seeded(0), torch.no_grad():  # inference mode would mark what rotary embeddings keep
            yield
    finally:
        model.generation_config = settings
        for module, mode in modes:
            module.training = mode


def _short(text: str) -> str:
    shown = one_line(text)
    return repr(shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}...")
