"""Stage 03, rank: pairs (chosen, rejected) from the judged completions of each prompt.

A strategy is one function and one row of `STRATEGIES`. It gets all prompts at once, so that one that asks a judge can
work in rounds over all of them (`prefopt.stages.rank.judged`). Which answers become pairs is decided in `prefopt.rules`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.judges import judge_files
from prefopt.rules.content import text_of
from prefopt.stages.rank.judged import FILES, JOURNAL, Judged, clear_files
from prefopt.stages.rank.pairs import (
    ADDS,
    Tally,
    given_pairs,
    groups_of,
    pair_rows,
    prompt_columns,
)
from prefopt.stages.rank.settings import RankConfig
from prefopt.stages.rank.strategies import STRATEGIES
from prefopt.stages.stage import Stage
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import Row, make_table, require, rows_of

if TYPE_CHECKING:
    from datasets import Dataset


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
    files=FILES[:2],
    loose=(FILES[2], JOURNAL),
    lasting=(JOURNAL,),  # answers that were paid for
)
