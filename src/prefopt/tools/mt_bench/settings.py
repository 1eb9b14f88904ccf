"""Settings of `prefopt mt-bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.settings import Config, OneOf
from prefopt.engines import ENGINES, Dtype, known_engine
from prefopt.engines.server_settings import ServerSettings

# 2306.05685's published code: creative questions are sampled, those with one right answer are not
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
                "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0}  # fmt: skip


class MtBenchConfig(Config):
    """Settings of MT-Bench's protocol."""

    questions: Path | None = Field(
        None,
        description="file of questions: question_id, category, turns; with recorded votes for categories alone",
    )
    judge_prompts: Path | None = Field(
        None, description="file of the judge's prompts: name, type, system_prompt, prompt_template"
    )
    references: Path | None = Field(
        None, description="file of reference answers: question_id, choices[0].turns"
    )
    reference_categories: list[str] = Field(
        ["math", "reasoning", "coding"], description="categories that are judged with a reference answer"
    )
    mode: Literal["single", "pairwise"] = Field(
        "single", description="single: each answer is graded 1 to 10; pairwise: models meet, in both orders"
    )
    judge: ServerSettings | None = Field(
        None, description="the judge: {base_url, model, ...} of an OpenAI-compatible endpoint"
    )
    judge_max_tokens: int = Field(2048, ge=1, description="longest answer of the judge, tokens")
    temperatures: dict[str, float] = Field(
        TEMPERATURES, description="category -> temperature of the answers; others: 0.7"
    )
    max_new_tokens: int = Field(1024, ge=1, description="longest answer of a model, tokens")
    batch_size: int = Field(32, ge=1, description="answers written at once; part of what fixes the samples")
    engine: Annotated[str, OneOf(lambda: ENGINES)] = Field(
        "transformers", description=f"what writes the answers: {', '.join(ENGINES)}"
    )
    engine_server: ServerSettings | None = Field(
        None, description="engine server: whom to ask for the answers"
    )
    dtype: Dtype = Field("auto", description="dtype of the models; auto is the checkpoint's own")
    limit: int | None = Field(None, ge=1, description="at most this many questions (null = all)")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        return known_engine(name)

    @field_validator("temperatures")
    @classmethod
    def _not_below_zero(cls, given: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= value < float("inf") for value in given.values()):
            raise ValueError("temperatures must not be below 0")
        return given

    @model_validator(mode="after")
    def _fits_engine(self) -> MtBenchConfig:
        if (self.engine == "server") != (self.engine_server is not None):
            raise ValueError("engine server and engine_server {base_url, model} belong together")
        return self
