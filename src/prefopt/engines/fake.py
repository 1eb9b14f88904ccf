"""A fake engine for tests: scripted or seeded answers, no model, the same protocol. One token is one character."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.engines import Completion, Dtype, EngineOptions, Sampling

END = 0  # the end token; characters are their code points
CHOICES = 4  # seeded answers are A: 0 ... A: 3


class FakeEngine:
    """Answers from `script` (prompt text -> answers, taken in turn), else "A: d" with a digit drawn from the seed.

    Greedy sampling (temperature 0) always takes the first scripted answer, or digit 0. `calls` keeps the size and
    seed of every batch.
    """

    name = "fake"

    def __init__(
        self, script: Mapping[str, Sequence[str]] | None = None, max_tokens: int | None = None
    ) -> None:
        self.script = {prompt: list(answers) for prompt, answers in (script or {}).items()}
        self.max_tokens = max_tokens
        self.calls: list[tuple[int, int]] = []

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Code points of the prompt, messages joined by line ends."""
        prompt = row["prompt"]
        text = prompt if isinstance(prompt, str) else "\n".join(str(m["content"]) for m in prompt)
        return [ord(character) for character in text]

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """Scripted answers by turn within the batch (from the seed on), cut at `max_new_tokens`."""
        self.calls.append((len(prompts), seed))
        rng = random.Random(seed)
        greedy = sampling.temperature == 0
        completions = []
        for ids in prompts:
            draw = 0 if greedy else rng.randrange(1 << 30)
            answers = self.script.get("".join(map(chr, ids)))
            text = answers[draw % len(answers)] if answers else f"A: {draw % CHOICES}"
            completions.append(_cut(text, sampling.max_new_tokens))
        return completions


def _cut(text: str, limit: int) -> Completion:
    ids = (*map(ord, text), END)
    if len(ids) <= limit:
        return Completion(text, ids, "stop")
    return Completion(text[:limit], ids[:limit], "length")


def open_engine(model: Path | None, dtype: Dtype, options: EngineOptions = EngineOptions()) -> FakeEngine:
    """The fake engine without a script; model, dtype and options mean nothing to it."""
    return FakeEngine()
