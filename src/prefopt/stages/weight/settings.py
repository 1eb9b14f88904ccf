"""Settings of 06-weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from prefopt.core.errors import nearest
from prefopt.core.settings import Config, OneOf
from prefopt.rules.weights import SCHEMES

if TYPE_CHECKING:
    pass


class WeightConfig(Config):
    """Settings of the weights."""

    scheme: Annotated[str, OneOf(lambda: SCHEMES)] = Field(
        "difficulty", description=f"how to weigh: {', '.join(SCHEMES)}"
    )
    alpha: float = Field(0.5, ge=0, description="factor of the odds wrong / right (of the entropy, in nats)")
    epsilon: float = Field(1.0, ge=0, description="adds epsilon / N to the weight of solved prompts")
    errors: Literal["all", "class"] = Field(
        "all", description="wrong samples counted by difficulty: all, or those of the rejected answer's class"
    )
    unparsed: Literal["wrong", "ignore"] = Field(
        "wrong", description="samples without a readable answer: wrong, or not counted at all"
    )
    normalize: Literal["mean1", "raw"] = Field(
        "mean1", description="mean1: divided by the mean over the training pairs; raw: as published"
    )
    clip: float | None = Field(
        None, gt=0, description="largest weight, before per_prompt and normalisation; null: none"
    )
    per_prompt: bool = Field(False, description="divide by the number of the prompt's training pairs")
    column: str = Field("weight", description="column of given weights, read by scheme column")

    @field_validator("scheme")
    @classmethod
    def _known_scheme(cls, name: str) -> str:
        if name not in SCHEMES:
            raise ValueError(f"unknown scheme, {nearest(name, SCHEMES)}")
        return name
