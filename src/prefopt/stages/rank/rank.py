"""Stage 03, rank: pairs (chosen, rejected) from the judged completions of each prompt.

A strategy is one function and one row of `STRATEGIES`. It gets all prompts at once, so that one that asks a judge can
work in rounds over all of them (`prefopt.stages.rank.judged`). Which answers become pairs is decided in `prefopt.rules`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config
from prefopt.judges import PairwiseJudgeConfig, judge_files
from prefopt.rules.content import is_empty, text_of
from prefopt.rules.order import hash_order
from prefopt.rules.pairing import UNPARSED, score_pairs, verify_pairs
from prefopt.stages.rank.judged import TOURNAMENTS, Judged, clear_files, rank_by_judge
from prefopt.stages.rank.pairs import (
    ADDS,
    Group,
    Outcome,
    Tally,
    given_pairs,
    groups_of,
    pair_rows,
    prompt_columns,
)
from prefopt.stages.stage import Context, Stage, StageOutput
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import Row, make_table, require, rows_of

if TYPE_CHECKING:
    from datasets import Dataset


class RankConfig(Config):
    """Settings of the pairing."""

    strategy: str | None = Field(
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
        if name in TOURNAMENTS and (self.pairs_per_prompt or 1) > 1:
            raise ValueError(f"strategy {name} makes one pair per prompt; set pairs_per_prompt: null")
        return self


@dataclass(frozen=True)
class Strategy:
    """`pair(groups, limit, config, context)` gives one outcome per prompt; None: the table's rows are pairs already.

    needs: columns read; verdict: the column without which a row cannot be used. pairs: the default of `pairs_per_prompt`.
    """

    pair: Callable[[Sequence[Group], int, RankConfig, Context], list[Outcome] | Judged] | None
    needs: tuple[str, ...]
    verdict: str | None = None
    pairs: int | None = None


def _verify(groups: Sequence[Group], limit: int, config: RankConfig, context: Context) -> list[Outcome]:
    """Right against wrong, wrong classes in turn (spec of 2412.20996, stage 3)."""
    return [_verify_one(group, limit, config, context.seed) for group in groups]


def _verify_one(group: Group, limit: int, config: RankConfig, seed: int) -> Outcome:
    rows = group.rows
    correct = [bool(row["is_correct"]) for row in rows]
    if all(correct):
        return Outcome(reason="all right")
    if not any(correct):
        if not config.gold_when_unsolved:
            return Outcome(reason="all wrong")
        gold = rows[0].get("gold_completion")
        if is_empty(gold):
            return Outcome(reason="all wrong, no gold_completion")
        rows = (*rows, {**rows[0], "id": f"{group.prompt_id}-gold", "completion": gold, "score": 1.0})
        correct.append(True)
    classes = np.array([UNPARSED if (c := row.get("answer_class")) is None else c for row in rows])
    order = hash_order([row["id"] for row in rows], seed, group.prompt_id)
    pairs = verify_pairs(np.array(correct), classes.astype(np.int64), order.tolist(), limit)
    return Outcome([(_scored(rows[c], 1.0), _scored(rows[r], 0.0)) for c, r in pairs])


def _scored(row: Row, score: float) -> Row:
    """The row with a score, its own where the judge gave one."""
    return row if row.get("score") is not None else {**row, "score": score}


def _score(groups: Sequence[Group], limit: int, config: RankConfig, context: Context) -> list[Outcome]:
    """Best against worst by a scalar score, or against the answer at mean - 2 sd (2502.16825)."""
    outcomes = []
    for group in groups:
        if len(group.rows) < 2:
            outcomes.append(Outcome(reason="fewer than two answers"))
            continue
        scores = np.array([row["score"] for row in group.rows], dtype=np.float64)
        pairs = score_pairs(scores, limit, config.rejected_at)
        reason = "" if pairs else "no answer scores higher than the rejected one"
        outcomes.append(Outcome([(group.rows[c], group.rows[r]) for c, r in pairs], reason))
    return outcomes


def _by_judge(groups: Sequence[Group], limit: int, config: RankConfig, context: Context) -> Judged:
    """Best against worst of a tournament."""
    return rank_by_judge(groups, config, context)


STRATEGIES: dict[str, Strategy] = {
    **{name: Strategy(_by_judge, ("completion",), pairs=1) for name in TOURNAMENTS},
    "verify": Strategy(_verify, ("completion", "is_correct"), "is_correct", pairs=4),
    "score": Strategy(_score, ("completion", "score"), "score", pairs=1),
    "given": Strategy(None, ("chosen", "rejected")),
}


def rank(table: Dataset, config: RankConfig, context: Context) -> StageOutput:
    """Judged completions -> pairs. `dropped` counts completions and pairs; `quality["prompts"]` counts prompts.

    Choices depend on ids and seed, not on the order of rows. `chosen` and `rejected` are text where the prompt is text,
    and an assistant message in a list where the prompt is a message list. With a judge, the stage's folder also gets
    `ranked.parquet`, `verdicts.parquet` and `verdict-timings.parquet`, and quality the judge's figures.

    Raises:
        PrefoptError: a needed column is missing, a row cannot be used (strict), or no pair results.
    """
    name = config.chosen_strategy
    strategy = STRATEGIES[name]
    require(table, strategy.needs, f"rank: strategy {name}")
    limit = config.pairs_per_prompt or strategy.pairs
    rows = rows_of(table)
    tally = Tally(context)
    judged = Judged([])
    clear_files(context.folder)
    if strategy.pair is None:
        pairs = given_pairs(rows, limit, tally)
    else:
        groups = groups_of(rows, strategy.verdict, tally)
        made = strategy.pair(groups, limit or 1, config, context)
        if isinstance(made, Judged):
            judged = made
            judged.write(context.folder)
        outcomes = made.outcomes if isinstance(made, Judged) else made
        tally.prompts.update(outcome.reason or "paired" for outcome in outcomes)
        pairs = pair_rows(groups, outcomes, prompt_columns(rows), tally)
    if not pairs:
        raise _no_pair(tally)
    quality = {"strategy": name, **_quality(pairs, config, tally), **judged.quality}
    quality["columns_left_out"] = [name for name in rows[0] if name not in COLUMNS and name not in pairs[0]]
    return StageOutput(make_table(pairs, ADDS), tally.dropped, quality)


def _no_pair(tally: Tally) -> PrefoptError:
    reasons = {**tally.dropped, **{f"prompts {reason}": n for reason, n in tally.prompts.items()}}
    found = ", ".join(f"{reason}: {n}" for reason, n in sorted(reasons.items())) or "the table is empty"
    if "budget of judge calls spent" in tally.prompts:
        return PrefoptError(f"rank: no pair could be made ({found}); raise judge_calls")
    return PrefoptError(f"rank: no pair could be made ({found}); sample more completions per prompt")


def _quality(pairs: Sequence[Row], config: RankConfig, tally: Tally) -> dict[str, Any]:
    """Counts of prompts and pairs, and lengths (characters) of chosen against rejected."""
    difference = [len(text_of(pair["chosen"])) - len(text_of(pair["rejected"])) for pair in pairs]
    per_prompt = Counter(Counter(pair["prompt_id"] for pair in pairs).values())
    unpaired = sum(tally.prompts.values()) - tally.prompts["paired"]
    return {
        "settings": config.model_dump(mode="json"),
        "pairs": len(pairs),
        "pairs_by_split": dict(sorted(Counter(pair.get("split") or "train" for pair in pairs).items())),
        "prompts": {"total": unpaired + tally.prompts["paired"], **dict(sorted(tally.prompts.items()))},
        "pairs_per_prompt": {str(n): c for n, c in sorted({0: unpaired, **per_prompt}.items())},
        "length_difference": {
            "unit": "characters",
            "mean": statistics.fmean(difference),
            "median": statistics.median(difference),
            "min": min(difference),
            "max": max(difference),
        },
        "share_chosen_longer": sum(d > 0 for d in difference) / len(pairs),
        "share_equal_length": sum(d == 0 for d in difference) / len(pairs),
        "gold_chosen": sum((pair.get("chosen_id") or "") == f"{pair['prompt_id']}-gold" for pair in pairs),
    }


def _outside(config: RankConfig) -> list[str]:
    return [] if config.judge is None else judge_files(config.judge)


STAGE = Stage(
    number=3,
    name="rank",
    config=RankConfig,
    run=rank,
    reads=("id", "prompt_id", "prompt"),  # further columns depend on the strategy
    adds=ADDS,
    about="make pairs from judged completions",
    outside=_outside,
)
