"""Settings of `prefopt advise`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefopt.core.settings import Config


class AdviseConfig(Config):
    """Settings of the advice."""

    limit: int | None = Field(None, ge=1, description="read at most this many rows (null = all)")
    columns: dict[str, str] = Field({}, description="your column names to ours, e.g. {question: prompt}")
    max_length: int = Field(1024, ge=2, description="tokens of prompt and answer in the model's pass")
    gap: Literal["mean", "sum"] = Field(
        "mean", description="reference gap per token (mean) or of whole answers (sum)"
    )
    draws: int = Field(200, ge=20, description="samples of prompts redrawn for every interval")
