"""Engines write completions. One protocol, one file per engine, imported only when it is asked for.

A caller encodes its rows, cuts them into batches by row index, and gives every batch a seed of its own: what a batch
says is a function of its prompts, the settings and that seed, so a resumed run samples the same. An engine that is
asked call by call (a server) is a `RowEngine`: each row has its own seed and is stored when its answer comes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from prefopt.core import processes
from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, check_options, digests, keywords_of, origin_of
from prefopt.core.settings import Config
from prefopt.engines.added import KIND, AddedEngine, reads_model
from prefopt.engines.protocol import (
    Chat,
    Completion,
    Engine,
    FinishReason,
    Prompt,
    Refusal,
    RowEngine,
    Sampling,
    batch_seed,
    until_stop,
)
from prefopt.engines.server_settings import ServerSettings

Made = TypeVar("Made", bound=Callable[..., Any])
# name -> (module, what to install when its import fails); of a plug-in: the function or class itself
ENGINES: dict[str, tuple[str, str] | Callable[..., Any]] = {
    "transformers": ("prefopt.engines.transformers_engine", "pip install prefopt"),
    "vllm": ("prefopt.engines.vllm_engine", "pip install 'prefopt[vllm]'"),
    "server": ("prefopt.engines.server_engine", "pip install 'prefopt[server]'"),
    "fake": ("prefopt.engines.fake", "pip install prefopt"),
}
WITHOUT_MODEL = ("server", "fake")  # they take no model directory; of plug-ins see `takes_model`
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def known_engine(name: str) -> str:
    """The name itself; a ValueError naming the nearest engine when there is none of that name."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine, {nearest(name, ENGINES)} (plugins add others)")
    return name


def takes_model(name: str) -> bool:
    """Whether the engine loads a model directory."""
    maker = ENGINES.get(name)
    return reads_model(maker) if callable(maker) else name not in WITHOUT_MODEL


def check_engine_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError unless the engine, one of a plug-in, has these options."""
    maker = ENGINES.get(name)
    try:
        check_options(f"engine {name!r}", dict(options), keywords_of(maker) if callable(maker) else {})
    except PrefoptError as error:
        raise ValueError(str(error)) from None


def engine_digests(*names: str) -> list[str]:
    """Digests of the plug-ins among the engines; for the key of a stage."""
    return digests(KIND, names)


def register_engine(name: str) -> Callable[[Made], Made]:
    """Decorator: a function `write(prompt, sampling, seed)`, or a class with `generate`, is an engine (`prefopt.engines.added`).

    Its keyword-only parameters are its options (`engine_options`).

    Raises:
        PrefoptError: the name is taken, or a class without `generate`.
    """

    def register(made: Made) -> Made:
        if not callable(made) or (isinstance(made, type) and not callable(getattr(made, "generate", None))):
            raise PrefoptError(
                f"{origin_of(made)}: engine {name!r}: decorate a function write(prompt, sampling, seed), or a class with "
                "generate(prompts, sampling, seed)"
            )
        add_part(KIND, name, made, made, ENGINES)
        return made

    return register


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
    """What single engines want to know: the server's address, vLLM's settings, continuous batching of transformers.

    more: options of a plug-in's engine.
    """

    server: ServerSettings | None = None
    vllm: VllmSettings | None = None
    continuous_batching: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


def open_engine(
    name: str, model: Path | None, dtype: Dtype = "auto", options: EngineOptions | None = None
) -> Engine:
    """The engine `name` on the model directory `model`, weights in `dtype` (auto: as in the checkpoint).

    Raises:
        PrefoptError: unknown name, a missing package (with the install line), no usable model or no server.
    """
    if name not in ENGINES:
        raise PrefoptError(f"unknown engine {name!r}, {nearest(name, ENGINES)}")
    maker = ENGINES[name]
    if name == "vllm" and processes.world() > 1:
        raise PrefoptError(
            f"engine 'vllm': starts its own processes, but this command has {processes.world()}; start it without torchrun, and "
            "set vllm.tensor_parallel_size for several GPUs"
        )
    if callable(maker):
        return AddedEngine(name, maker, model, dict(options.more) if options else {})
    module, install = maker
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PrefoptError(f"engine {name!r} needs the package {error.name!r}; {install}") from None
    engine: Engine = found.open_engine(model, dtype, options or EngineOptions())
    return engine


__all__ = [
    "ENGINES",
    "WITHOUT_MODEL",
    "Chat",
    "Completion",
    "Dtype",
    "Engine",
    "EngineOptions",
    "FinishReason",
    "Prompt",
    "Refusal",
    "RowEngine",
    "Sampling",
    "VllmSettings",
    "batch_seed",
    "engine_digests",
    "known_engine",
    "open_engine",
    "register_engine",
    "takes_model",
    "until_stop",
]
