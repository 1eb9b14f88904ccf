"""Rows that a stage will have, from those before it: what a plan can know without doing it. `most`: there may be fewer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prefopt.rules.content import text_of
from prefopt.rules.tournament import most_comparisons
from prefopt.tables.records import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

CHARS_PER_TOKEN = 4.0  # English text; other texts and small vocabularies have more tokens
LOOKED_AT = 256  # rows whose lengths are taken


@dataclass(frozen=True)
class Expected:
    """rows: of the table; train, held_out: of them by split; prompts: different ones. Lengths are means, in tokens.

    answers: completions of a prompt. row_tokens: prompt and all answers of a row. calls: of a judge or server.
    """

    rows: int = 0
    train: int = 0
    held_out: int = 0
    prompts: int = 0
    answers: int = 1
    prompt_tokens: float = 0.0
    answer_tokens: float = 0.0
    row_tokens: float = 0.0
    calls: int = 0
    most: bool = False


def counted(table: Dataset) -> Expected:
    """What a table holds; lengths of its first rows stand for all."""
    names = table.column_names
    splits = table.data.table.column("split").to_pylist() if "split" in names else ["train"] * table.num_rows
    kept = table.data.table.column("kept").to_pylist() if "kept" in names else [True] * table.num_rows
    train = sum(split != "eval" and bool(keep) for split, keep in zip(splits, kept, strict=True))
    prompts = len(table.data.table.column("prompt_id").unique()) if "prompt_id" in names else table.num_rows
    head = rows_of(table.select(range(min(LOOKED_AT, table.num_rows))))
    prompt = _mean([_tokens(row.get("prompt")) for row in head])
    sides = [[row[name] for name in ("chosen", "rejected", "completion") if row.get(name)] for row in head]
    answers = [_tokens(answer) for found in sides for answer in found]
    return Expected(
        rows=table.num_rows, train=train, held_out=sum(split == "eval" for split in splits), prompts=prompts,
        answers=max(1, round(table.num_rows / max(1, prompts))), prompt_tokens=prompt, answer_tokens=_mean(answers),
        row_tokens=prompt + _mean([sum(map(_tokens, found)) for found in sides]),
    )  # fmt: skip


def expected(stage: str, config: Any, before: Expected, test_prompts: int) -> Expected:
    """Rows of a stage after `before`. test_prompts: of 08-evaluate."""
    rule = RULES.get(stage)
    return rule(config, before, test_prompts) if rule else before


def _sample(config: Any, before: Expected, test: int) -> Expected:
    from prefopt.stages.sample.sources import sources_of

    n = sum(source.n for source in sources_of(config))
    held = before.held_out / max(1, before.rows)
    return replace(
        before, rows=before.prompts * n, train=round(before.prompts * n * (1 - held)), held_out=round(before.prompts * n * held),
        answers=n, answer_tokens=config.max_new_tokens, row_tokens=before.prompt_tokens + config.max_new_tokens, most=True,
        calls=before.prompts * n if config.engine == "server" else 0,
    )  # fmt: skip


def _rank(config: Any, before: Expected, test: int) -> Expected:
    from prefopt.stages.rank.strategies import STRATEGIES

    strategy = STRATEGIES[config.chosen_strategy]
    each = config.pairs_per_prompt or strategy.pairs or before.answers
    pairs = before.prompts * min(each, max(1, before.answers // 2 * (before.answers - before.answers // 2)))
    held = before.held_out / max(1, before.rows)
    calls = 0
    if config.judge is not None:
        orders = 1 if config.judge.kind in ("recorded", "verifier", "reward_model") else 2
        calls = before.prompts * orders * most_comparisons(config.chosen_strategy, before.answers)
        calls = min(calls, config.judge_calls) if config.judge_calls is not None else calls
    return replace(
        before, rows=pairs, train=round(pairs * (1 - held)), held_out=round(pairs * held), most=True, calls=calls,
        row_tokens=before.prompt_tokens + 2 * before.answer_tokens,
    )  # fmt: skip


def _select(config: Any, before: Expected, test: int) -> Expected:
    if config.rule in ("top", "bottom", "middle", "two_tailed", "random"):
        return replace(before, train=math.ceil(config.fraction * before.train))
    return before if config.rule == "all" else replace(before, most=True)


def _weight(config: Any, before: Expected, test: int) -> Expected:
    return replace(before, rows=before.train + before.held_out)


def _evaluate(config: Any, before: Expected, test: int) -> Expected:
    prompts = min(test, config.limit) if config.limit else test
    n = config.n + config.greedy
    pairs = {"heldout": before.held_out, "all": before.rows, "none": 0}[config.pairs]
    return replace(
        before, rows=prompts * n + pairs, train=0, held_out=pairs, prompts=prompts, answers=n,
        answer_tokens=config.max_new_tokens, calls=prompts * n if config.engine == "server" else 0,
    )  # fmt: skip


RULES: dict[str, Callable[[Any, Expected, int], Expected]] = {
    "sample": _sample,
    "rank": _rank,
    "select": _select,
    "weight": _weight,
    "evaluate": _evaluate,
}


def steps_of(config: Any, pairs: int) -> int:
    """Optimizer steps of a training on so many pairs."""
    return int(config.steps or math.ceil(config.epochs * math.ceil(pairs / config.pairs_per_step)))


def _tokens(content: Any) -> float:
    return len(text_of(content)) / CHARS_PER_TOKEN if content else 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
