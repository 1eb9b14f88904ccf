"""Settings of 08-evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.settings import Config, OneOf
from prefopt.engines import ENGINES, Dtype, check_engine_options, known_engine
from prefopt.engines.server_settings import ServerSettings
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.sample.system import checked_system
from prefopt.verify import VerifyConfig

if TYPE_CHECKING:
    pass


class EvaluateConfig(Config):
    """Settings of the evaluation."""

    data: DataConfig | None = Field(
        None, description="test prompts with gold answers (null: held-out pairs alone)"
    )
    limit: int | None = Field(None, ge=1, description="at most this many test prompts (null = all)")
    system: str | None = Field(
        None, description="system prompt for all test prompts; held-out pairs have theirs already"
    )
    n: int = Field(1, ge=0, description="sampled completions per test prompt (0: none)")
    temperature: float = Field(1.0, gt=0, description="of the sampled completions")
    top_p: float = Field(1.0, gt=0, le=1, description="of the sampled completions")
    top_k: int = Field(0, ge=0, description="of the sampled completions (0 = all tokens)")
    greedy: bool = Field(True, description="also one greedy completion per test prompt")
    pass_k: list[int] | None = Field(None, description="the k of pass@k (null: 1, 2, 4 ... n)")
    max_new_tokens: int = Field(256, ge=1, description="longest completion, tokens")
    batch_size: int = Field(
        256, ge=1, description="completions written at once; part of what fixes the samples"
    )
    engine: Annotated[str, OneOf(lambda: ENGINES)] = Field(
        "transformers", description=f"what writes: {', '.join(ENGINES)}"
    )
    server: ServerSettings | None = Field(None, description="engine server: whom to ask")
    engine_options: dict[str, Any] = Field({}, description="options of a plug-in's engine")
    dtype: Dtype = Field("auto", description="dtype of the model; auto is the checkpoint's own")
    verifier: VerifyConfig = Field(VerifyConfig(), description="how final answers are found and compared")  # type: ignore[call-arg]
    pairs: Literal["heldout", "all", "none"] = Field(
        "heldout",
        description="pairs whose ranking is checked: those of split eval, all of the input, or none",
    )
    pair_metric: Literal["reward", "logp", "logp_mean"] = Field(
        "reward",
        description="what decides pair_correct: reward (policy minus reference), logp (sum), logp_mean (per token)",
    )
    max_length: int = Field(
        1024, ge=2, description="tokens of prompt and answer, for pairs that stage 04 has not measured"
    )
    batch_tokens: int = Field(8192, ge=1, description="tokens of a batch of pairs, padding included")

    @property
    def needs_model(self) -> bool:
        """Whether a model directory is wanted (a server has its own)."""
        return self.engine != "server"

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        return known_engine(name)

    @field_validator("system")
    @classmethod
    def _says_something(cls, text: str | None) -> str | None:
        return checked_system(text)

    @field_validator("pass_k")
    @classmethod
    def _positive(cls, ks: list[int] | None) -> list[int] | None:
        if ks is not None and (not ks or min(ks) < 1):
            raise ValueError("give numbers of at least 1, e.g. [1, 4]")
        return ks

    @model_validator(mode="after")
    def _fits_engine(self) -> EvaluateConfig:
        check_engine_options(self.engine, self.engine_options)
        if self.engine == "server" and self.server is None:
            raise ValueError("engine 'server' needs server.base_url (http://HOST:PORT/v1) and server.model")
        if self.server is not None and self.engine != "server":
            raise ValueError(f"server is for engine 'server', the engine is {self.engine!r}")
        return self
