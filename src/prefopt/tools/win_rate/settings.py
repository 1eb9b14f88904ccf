"""Settings of `prefopt win-rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.settings import Config
from prefopt.judges import PairwiseJudgeConfig


class WinRateConfig(Config):
    """Settings of the win rates."""

    judge: PairwiseJudgeConfig | None = Field(
        None, description="pairwise judge: its kind, or {kind: ..., ...}; none where verdicts are recorded"
    )
    mode: Literal["greedy", "sampled"] | None = Field(
        None, description="which answers of an evaluated model; null: greedy where it has them, else sampled"
    )
    probabilities: bool = Field(
        True,
        description="a judge's probability counts as the preference where every call of a comparison has one; "
        "false: 1, 0.5 or 0",
    )
    difficulty: Path | None = Field(
        None,
        description="file with the difficulty of every prompt (columns prompt or instruction, and difficulty) for the "
        "length-controlled win rate",
    )
    anchors: list[Path] = Field(
        [],
        description="files of annotations of the baseline asked to be longer or shorter, which hold the effect of length",
    )
    limit: int | None = Field(None, ge=1, description="at most this many prompts (null = all)")

    @field_validator("judge", mode="before")
    @classmethod
    def _judge_by_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _anchors_need_difficulty(self) -> WinRateConfig:
        if self.anchors and self.difficulty is None:
            raise ValueError("anchors need difficulty, the file with the difficulty of every prompt")
        return self
