"""Engines write completions. One protocol, one file per engine, imported only when it is asked for.

A caller encodes its rows, cuts them into batches by row index, and gives every batch a seed of its own: what a batch
says is a function of its prompts, the settings and that seed, so a resumed run samples the same. An engine that is
asked call by call (a server) is a `RowEngine`: each row has its own seed and is stored when its answer comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config
from prefopt.engines.client import ServerSettings
from prefopt.tables.records import digest

# name -> (module, what to install when its import fails)
ENGINES: dict[str, tuple[str, str]] = {
    "transformers": ("prefopt.engines.transformers_engine", "pip install prefopt"),
    "vllm": ("prefopt.engines.vllm_engine", "pip install 'prefopt[vllm]'"),
    "server": ("prefopt.engines.server_engine", "pip install 'prefopt[server]'"),
    "fake": ("prefopt.engines.fake", "pip install prefopt"),
}
WITHOUT_MODEL = ("server", "fake")  # they take no model directory
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
FinishReason = Literal["stop", "length"]


def known_engine(name: str) -> str:
    """The name itself; a ValueError naming the nearest engine when there is none of that name."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine, {nearest(name, ENGINES)}")
    return name


class VllmSettings(Config):
    """vLLM's own settings."""

    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share the model")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory to take")
    max_model_len: int | None = Field(
        None, ge=1, description="longest prompt and answer, tokens (null: the model's own limit)"
    )
    extra: dict[str, Any] = Field({}, description="further arguments of vllm.LLM, e.g. {enforce_eager: true}")

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        taken = set(cls.model_fields) | {"model", "dtype", "seed", "generation_config", "trust_remote_code"}
        if found := sorted(taken & set(extra)):
            raise ValueError(f"{found[0]} cannot be set here")
        return extra


@dataclass(frozen=True)
class EngineOptions:
    """What single engines want to know: the server's address, vLLM's settings, continuous batching of transformers."""

    server: ServerSettings | None = None
    vllm: VllmSettings | None = None
    continuous_batching: bool = False


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. temperature 0 is greedy; top_k 0 and top_p 1 are off; lengths in tokens.

    logprobs: also give the sampler's own log-prob of what it wrote, where the engine can.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    logprobs: bool = False


@dataclass(frozen=True)
class Completion:
    """One answer: its text without end token, its token ids with it, and why it ended.

    token_ids: None where the engine shows none (a server); `counted` is then its own count, if any. logp: sum of the
    sampler's log-probs of the tokens, nats, before temperature and truncation; None where not asked for.
    """

    text: str
    token_ids: tuple[int, ...] | None
    finish_reason: FinishReason
    counted: int | None = None
    logp: float | None = None

    @property
    def tokens(self) -> int | None:
        """Length in tokens, the end token included; None: unknown."""
        return self.counted if self.token_ids is None else len(self.token_ids)


@dataclass(frozen=True)
class Refusal:
    """No answer, and why (a reason of dropped rows). again: asking once more may help. said: the server's own words."""

    reason: str
    again: bool = False
    said: str = ""


@dataclass(frozen=True)
class Chat:
    """A prompt for a server: messages, and further fields of the request (tools, chat_template_kwargs)."""

    messages: tuple[Mapping[str, Any], ...]
    extra: Mapping[str, Any]


Prompt = Sequence[int] | Chat


class Engine(Protocol):
    """What writes completions. `name` says who wrote them; `max_tokens` bounds prompt and completion (None: unknown)."""

    name: str
    max_tokens: int | None

    def encode(self, row: Mapping[str, Any]) -> Any:
        """The row's `prompt` (with `tools`, `chat_template_kwargs`) as the engine wants it: token ids, or a `Chat`."""
        ...

    def generate(self, prompts: Sequence[Any], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order: one batch under one seed. Global random state stays as it was."""
        ...


@runtime_checkable
class RowEngine(Protocol):
    """An engine asked row by row, many at once."""

    name: str
    max_tokens: int | None

    def generate_each(
        self,
        prompts: Sequence[Any],
        sampling: Sampling,
        seeds: Sequence[int],
        on_answer: Callable[[int, Completion | Refusal], None],
    ) -> None:
        """Ask all prompts, each under its seed; `on_answer(index, answer)` is called once for each, as answers come."""
        ...


def open_engine(
    name: str, model: Path | None, dtype: Dtype = "auto", options: EngineOptions | None = None
) -> Engine:
    """The engine `name` on the model directory `model`, weights in `dtype` (auto: as in the checkpoint).

    Raises:
        PrefoptError: unknown name, a missing package (with the install line), no usable model or no server.
    """
    if name not in ENGINES:
        raise PrefoptError(f"unknown engine {name!r}, {nearest(name, ENGINES)}")
    module, install = ENGINES[name]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PrefoptError(f"engine {name!r} needs the package {error.name!r}; {install}") from None
    engine: Engine = found.open_engine(model, dtype, options or EngineOptions())
    return engine


def batch_seed(seed: int, label: str, index: int) -> int:
    """Seed (31 bits) of batch (or row) `index` of the pass `label` in a stage with `seed`."""
    return int(digest(seed, label, index)[:8], 16) & 0x7FFFFFFF


def until_stop(ids: Sequence[int], stops: frozenset[int]) -> Iterator[int]:
    """The ids up to and with the first end token."""
    for token in ids:
        yield token
        if token in stops:
            return
