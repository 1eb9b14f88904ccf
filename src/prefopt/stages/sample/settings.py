"""Settings of 01-sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from prefopt.core.settings import Config, OneOf
from prefopt.engines import ENGINES, Dtype, VllmSettings, check_engine_options, known_engine
from prefopt.engines.server_settings import ServerSettings
from prefopt.stages.sample.sources import (
    ModelSource,
    read_models,
    sources_of,
)
from prefopt.stages.sample.system import checked_system

if TYPE_CHECKING:
    pass


class SampleConfig(Config):
    """Settings of the sampling."""

    n: int = Field(16, ge=1, description="completions per prompt (of each model, where there are several)")
    temperature: float = Field(0.8, ge=0, description="0 is greedy (then n must be 1)")
    top_p: float = Field(0.95, gt=0, le=1, description="draw from the likeliest tokens that hold this share")
    top_k: int = Field(0, ge=0, description="draw from this many likeliest tokens (0 = all)")
    max_new_tokens: int = Field(256, ge=1, description="longest completion, tokens")
    batch_size: int = Field(
        128, ge=1, description="completions written at once; part of what fixes the samples"
    )
    system: str | None = Field(
        None, description="system prompt for all prompts; it stays in their column prompt"
    )
    engine: Annotated[str, OneOf(lambda: ENGINES)] = Field(
        "transformers", description=f"what writes: {', '.join(ENGINES)}"
    )
    models: list[ModelSource] | None = Field(
        None, description="several models that answer each prompt: [{model, name, n, engine, server}, ...]"
    )
    engine_options: dict[str, Any] = Field({}, description="options of a plug-in's engine")
    dtype: Dtype = Field("auto", description="dtype of the model; auto is the checkpoint's own")
    server: ServerSettings | None = Field(None, description="engine server: whom to ask")
    vllm: VllmSettings = Field(VllmSettings(), description="engine vllm: its own settings")  # type: ignore[call-arg]
    continuous_batching: bool = Field(
        False,
        description="engine transformers: its continuous batching; a resumed run may then sample otherwise",
    )
    logprobs: bool = Field(
        False, description="engine vllm: also keep the sampler's log-prob of each completion"
    )

    @property
    def needs_model(self) -> bool:
        """Whether a model directory is wanted (a server has its own, and so have models that are named)."""
        return any(source.needs_model for source in sources_of(self))

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        return known_engine(name)

    @field_validator("models", mode="before")
    @classmethod
    def _short_models(cls, given: Any) -> Any:
        return read_models(given)

    @field_validator("system")
    @classmethod
    def _says_something(cls, text: str | None) -> str | None:
        return checked_system(text)

    @model_validator(mode="after")
    def _fits_engines(self) -> SampleConfig:
        sources = sources_of(self)
        check_engine_options(self.engine, self.engine_options)
        for name, given, wanted in (
            ("continuous_batching", self.continuous_batching, "transformers"),
            ("logprobs", self.logprobs, "vllm"),
        ):
            other = next((source.engine for source in sources if source.engine != wanted), None)
            if given and other is not None:
                raise ValueError(f"{name} is for engine {wanted!r}, the engine is {other!r}")
        if self.temperature == 0 and any(source.n > 1 for source in sources):
            raise ValueError(
                "temperature 0 gives the same completion every time; set n to 1 or temperature above 0"
            )
        return self
