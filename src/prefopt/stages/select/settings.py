"""Settings of 05-select."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.errors import nearest
from prefopt.core.settings import Config, OneOf
from prefopt.rules.selection import RULES

if TYPE_CHECKING:
    pass


Score = Literal["gap_mean", "gap_sum", "abs_gap_mean", "abs_gap_sum", "column"]


class SelectConfig(Config):
    """Settings of the selection."""

    rule: Annotated[str, OneOf(lambda: RULES)] = Field(
        "top", description=f"which pairs to keep: {', '.join(RULES)}"
    )
    score: Score = Field("gap_mean", description="what pairs are ranked by; column: the values of `column`")
    column: str | None = Field(None, description="name of the column of numbers that score `column` reads")
    fraction: float = Field(
        0.4, gt=0, le=1, description="share of the pairs kept by top, bottom, middle, two_tailed and random"
    )
    threshold: float | None = Field(None, description="lowest score kept by rule threshold")
    stratify_by: str | None = Field(
        None, description="column within whose values the rule is applied separately"
    )

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        if name not in RULES:
            raise ValueError(f"unknown rule, {nearest(name, RULES)} (plugins add others)")
        return name

    @model_validator(mode="after")
    def _no_idle_option(self) -> SelectConfig:
        if (self.rule == "threshold") != (self.threshold is not None):
            raise ValueError("`threshold` and rule threshold belong together: give both or neither")
        if (self.score == "column") != (self.column is not None):
            raise ValueError("`column` and score column belong together: give both or neither")
        return self
