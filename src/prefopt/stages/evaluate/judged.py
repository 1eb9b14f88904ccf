"""Completions of test prompts judged: by final answers, by the prompt's constraints, or by the verifier of the settings."""

from __future__ import annotations

from collections.abc import Sequence

from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.judge.named import for_prompt, scored_rows
from prefopt.tables.context import Context
from prefopt.tables.records import Row
from prefopt.verify import (
    VerifyConfig,
    answer_classes,
    check_ready,
    extract_answer,
    gold_answer,
    same_answer,
)
from prefopt.verify.verifiers import ANSWER


def check_prompts(prompts: Sequence[Row], config: EvaluateConfig) -> None:
    """Raise `PrefoptError`, before a completion is written, where the verifier cannot judge the prompts."""
    for kind, group in _by_kind(prompts, config).items():
        if kind != ANSWER:
            check_ready(for_prompt(group[0], config.verifier), group)


def judged(rows: list[Row], config: EvaluateConfig, context: Context, dropped: dict[str, int]) -> list[Row]:
    """The rows with `answer`, `is_correct`, perhaps `score` and, by constraints, `followed`, without those on which a verifier failed."""
    failed: set[str] = set()
    for kind, group in _by_kind(rows, config).items():
        if kind == ANSWER:
            _by_answer(group, config.verifier, voting=config.n > 1)
            continue
        scores = scored_rows(group, for_prompt(group[0], config.verifier), context, dropped, f"check {kind}")
        for row in group:
            found = scores.get(row["id"])
            if found is None:
                failed.add(row["id"])
                continue
            row["answer"], row["is_correct"] = found.answer, found.is_correct
            if found.score is not None:
                row["score"] = found.score
            if found.details is not None:
                row["followed"] = found.details
    return [row for row in rows if row["id"] not in failed]


def _by_kind(rows: Sequence[Row], config: EvaluateConfig) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(for_prompt(row, config.verifier).kind, []).append(row)
    return groups


def _by_answer(rows: Sequence[Row], config: VerifyConfig, *, voting: bool) -> None:
    """Final answers against gold ones; with `voting` also the classes of equal answers among a prompt's samples (maj@k)."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["prompt_id"], row["mode"]), []).append(row)
    for group in groups.values():
        gold = None if group[0].get("gold") is None else gold_answer(group[0]["gold"], config)
        answers = [extract_answer(row["completion"], config) for row in group]
        for row, answer in zip(group, answers, strict=True):
            right = answer is not None and gold is not None and same_answer(answer, gold, config)
            row["answer"], row["is_correct"] = answer, None if gold is None else right
        if voting and gold is not None and len(group) > 1:
            classes, _ = answer_classes(answers, gold, config)
            for row, number in zip(group, classes, strict=True):
                row["answer_class"] = number
