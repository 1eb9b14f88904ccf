"""Settings of 03-rank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.errors import nearest
from prefopt.core.settings import Config, OneOf
from prefopt.judges import PairwiseJudgeConfig
from prefopt.stages.rank.judged import TOURNAMENTS

if TYPE_CHECKING:
    pass
from prefopt.stages.rank.strategies import STRATEGIES


class RankConfig(Config):
    """Settings of the pairing."""

    strategy: Annotated[str | None, OneOf(lambda: STRATEGIES)] = Field(
        None,
        description="by a judge: ipr (king of the hill), round_robin, knockout; without one: verify (right against wrong), "
        "score (best against worst by `score`), given (the rows are pairs); null: ipr where there is a judge, else verify",
    )
    judge: PairwiseJudgeConfig | None = Field(
        None, description="pairwise judge: its kind, or {kind: ..., ...}; see `prefopt.judges`"
    )
    judge_calls: int | None = Field(
        None, ge=0, description="budget: judge calls at most; prompts beyond it make no pair (null: no limit)"
    )
    aggregate: Literal["copeland", "bradley_terry"] = Field(
        "copeland", description="places by the share of comparisons won, or by Bradley-Terry strength"
    )
    cycle_prompts: int | None = Field(
        None,
        ge=0,
        description="prompts whose answers are all compared for the 3-cycle rate; null: 200 where calls are free, else 0",
    )
    verdict_cache: Path | None = Field(
        None, description="file of verdicts kept by content; null: verdicts.jsonl in the stage's folder"
    )
    pairs_per_prompt: int | None = Field(
        None,
        ge=1,
        description="pairs of a prompt at most; null: 4 for verify, all for given, 1 for the others",
    )
    match: Literal["length"] | None = Field(
        None,
        description="verify: length pairs a right answer with a wrong one of like length, so that length decides as little "
        "as it can (null: wrong answers of all classes in turn)",
    )
    gold_when_unsolved: bool = Field(
        False, description="verify: where every sample is wrong, the gold solution is chosen"
    )
    rejected_at: Literal["min", "mean-2sd"] = Field(
        "min",
        description="score: rejected is the lowest, or the nearest to mean - 2 sd of the prompt's scores",
    )

    @property
    def chosen_strategy(self) -> str:
        """The strategy that `strategy` and `judge` come to."""
        return self.strategy or ("ipr" if self.judge is not None else "verify")

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str | None) -> str | None:
        if name is not None and name not in STRATEGIES:
            raise ValueError(f"unknown strategy, {nearest(name, STRATEGIES)}")
        return name

    @field_validator("judge", mode="before")
    @classmethod
    def _judge_by_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fitting(self) -> RankConfig:
        name = self.chosen_strategy
        if name in TOURNAMENTS and self.judge is None:
            raise ValueError(f"strategy {name} asks a judge; set judge, e.g. recorded, local or server")
        if name not in TOURNAMENTS and self.judge is not None:
            raise ValueError(f"strategy {name} asks no judge; leave out judge, or set strategy: ipr")
        if self.match is not None and name != "verify":
            raise ValueError(f"match is of strategy verify, the strategy is {name}; leave out match")
        if name in TOURNAMENTS and (self.pairs_per_prompt or 1) > 1:
            raise ValueError(f"strategy {name} makes one pair per prompt; set pairs_per_prompt: null")
        return self
