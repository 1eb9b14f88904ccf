"""Engines of the user's: a function of one prompt, or a class with `generate`, under a name for `sample.engine`.

    @prefopt.register_engine("echo")
    def echo(prompt, sampling, seed, *, times=2):
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return " ".join([text] * times)

A function is given the prompt (text or messages), a `Sampling` and a seed of the row's own, and gives a text or a
`Completion`; it loads no model. A class is made with the model directory (None where the recipe has none for it) and its
options, and has `generate(prompts, sampling, seed)`; prompts are what its own `encode(row)` made, else the column `prompt`.
With `needs_model = False` it is given no model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.core.plugins import told
from prefopt.engines.protocol import Completion, Sampling, batch_seed

KIND = "engine"


def reads_model(made: Callable[..., Any]) -> bool:
    """Whether it is given a model directory: a class that does not say `needs_model = False`."""
    return inspect.isclass(made) and bool(getattr(made, "needs_model", True))


class AddedEngine:
    """An engine of a plug-in behind the protocol of `Engine`; what it raises is told with file and line."""

    def __init__(
        self, name: str, made: Callable[..., Any], model: Path | None, options: dict[str, Any]
    ) -> None:
        self.name, self.options, self.function = name, options, made
        self.asked: Any = None
        if inspect.isclass(made):
            with told(KIND, name):
                maker: Any = made
                self.asked = maker(model, **options)
                self.name = str(getattr(self.asked, "name", name))
        self._registered = name
        self.max_tokens: int | None = getattr(self.asked, "max_tokens", None)

    def encode(self, row: Mapping[str, Any]) -> Any:
        """What the engine makes of the row, else its prompt."""
        if not hasattr(self.asked, "encode"):
            return row["prompt"]
        with told(KIND, self._registered):
            return self.asked.encode(row)

    def generate(self, prompts: Sequence[Any], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order; a function has a seed per prompt.

        Raises:
            PrefoptError: the engine fails or gives something else than completions; names its file and line.
        """
        with told(KIND, self._registered):
            if self.asked is not None:
                found = list(self.asked.generate(prompts, sampling, seed))
                if len(found) != len(prompts):
                    raise ValueError(
                        f"gave {len(found)} completions for {len(prompts)} prompts; give one for each"
                    )
            else:
                found = [
                    self.function(prompt, sampling, batch_seed(seed, "row", index), **self.options)
                    for index, prompt in enumerate(prompts)
                ]
            return [_completion(one) for one in found]


def _completion(found: Any) -> Completion:
    if isinstance(found, Completion):
        return found
    if isinstance(found, str):
        return Completion(found, None, "stop")
    raise TypeError(f"gave {found!r}; return a text or a Completion")
