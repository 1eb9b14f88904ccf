"""How completions become pairs: one function and one row of `STRATEGIES` each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prefopt.rules.content import is_empty
from prefopt.rules.order import hash_order
from prefopt.rules.pairing import UNPARSED, matched_pairs, score_pairs, verify_pairs
from prefopt.stages.rank.judged import TOURNAMENTS, Judged, Pairing, rank_by_judge
from prefopt.stages.rank.pairs import (
    Group,
    Outcome,
)
from prefopt.tables.context import Context
from prefopt.tables.records import Row

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Strategy:
    """`pair(groups, limit, config, context)` gives one outcome per prompt; None: the table's rows are pairs already.

    needs: columns read; verdict: the column without which a row cannot be used. pairs: the default of `pairs_per_prompt`.
    """

    pair: Callable[[Sequence[Group], int, Pairing, Context], list[Outcome] | Judged] | None
    needs: tuple[str, ...]
    verdict: str | None = None
    pairs: int | None = None


def _verify(groups: Sequence[Group], limit: int, config: Pairing, context: Context) -> list[Outcome]:
    """Right against wrong, wrong classes in turn (spec of 2412.20996, stage 3)."""
    return [_verify_one(group, limit, config, context.seed) for group in groups]


def _verify_one(group: Group, limit: int, config: Pairing, seed: int) -> Outcome:
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
    order = hash_order([row["id"] for row in rows], seed, group.prompt_id).tolist()
    if config.match == "length":
        pairs = matched_pairs(np.array(correct), _lengths(rows), order, limit)
        return Outcome([(_scored(rows[c], 1.0), _scored(rows[r], 0.0)) for c, r in pairs])
    classes = np.array([UNPARSED if (c := row.get("answer_class")) is None else c for row in rows])
    pairs = verify_pairs(np.array(correct), classes.astype(np.int64), order, limit)
    return Outcome([(_scored(rows[c], 1.0), _scored(rows[r], 0.0)) for c, r in pairs])


def _lengths(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Tokens of the completions; characters where one of them does not say how many."""
    tokens = [row.get("completion_tokens") for row in rows]
    told = tokens if None not in tokens else [len(row["completion"]) for row in rows]
    return np.array(told, dtype=np.float64)


def _scored(row: Row, score: float) -> Row:
    """The row with a score, its own where the judge gave one."""
    return row if row.get("score") is not None else {**row, "score": score}


def _score(groups: Sequence[Group], limit: int, config: Pairing, context: Context) -> list[Outcome]:
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


def _by_judge(groups: Sequence[Group], limit: int, config: Pairing, context: Context) -> Judged:
    """Best against worst of a tournament."""
    return rank_by_judge(groups, config, context)


STRATEGIES: dict[str, Strategy] = {
    **{name: Strategy(_by_judge, ("completion",), pairs=1) for name in TOURNAMENTS},
    "verify": Strategy(_verify, ("completion", "is_correct"), "is_correct", pairs=4),
    "score": Strategy(_score, ("completion", "score"), "score", pairs=1),
    "given": Strategy(None, ("chosen", "rejected")),
}
