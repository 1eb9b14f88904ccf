"""Stage 02, judge: final answers checked against the gold answer, answer classes, statistics per prompt.

The statistics are those of difficulty weighting (2412.20996, stage 1). A recorded file may bring verdicts of its own
(`is_correct`, `score`): where there is a gold answer they are compared with ours, elsewhere they are used.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.rules.intervals import entropy_nats, mean_pass_at_k, share_interval
from prefopt.stages.judge.named import for_prompt, scored_rows
from prefopt.stages.judge.settings import JudgeConfig
from prefopt.stages.sample.sample import length_figures
from prefopt.stages.stage import Stage
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput, map_parts
from prefopt.tables.progress import progress
from prefopt.tables.records import Row, make_table, rows_of
from prefopt.verify import (
    VerifyConfig,
    answer_classes,
    check_ready,
    extract_answer,
    gold_answer,
    verifier_digests,
)
from prefopt.verify.verifiers import ANSWER

if TYPE_CHECKING:
    from datasets import Dataset

    from prefopt.judges.reward_model import RewardScorer
    from prefopt.verify import Score

UNPARSED = -1
STATISTICS = ("n", "n_correct", "n_incorrect", "n_unparsed", "n_distinct", "answer_entropy", "majority_share")
ADDS = ("answer", "answer_class", "is_correct", "score", *STATISTICS)
MOST_MODELS = 50  # models told apart in the figures


def judge(table: Dataset, config: JudgeConfig, context: Context) -> StageOutput:
    """Add `answer`, `answer_class`, `is_correct`, `score` per completion, and statistics per prompt (`STATISTICS`).

    n_incorrect counts unparsed answers too. n_distinct and answer_entropy (nats) are over the parsed answers;
    majority_share is the largest class's share of all n. Without a verdict is_correct, score, n_correct and
    n_incorrect are null; classes are given all the same. Verdicts of the file that the verifier overrules are kept as
    `recorded_is_correct` and `recorded_score`. kind reward_model: `score` is the reward of `config.model`, the rest is
    as with auto. Rows on which a check of the user's fails are dropped with the reason.

    Raises:
        PrefoptError: kind verifier without any gold answer, kind recorded without any verdict, kind reward_model
            without a reward model; a verifier that cannot be run, or fails on every row.
    """
    rows = rows_of(table)
    _check_source(rows, config)
    dropped: dict[str, int] = {}
    rows, verdicts = _named(rows, config, context, dropped)
    scorer = _scorer(config) if config.kind == "reward_model" else None
    if scorer is not None:
        for row in (row for row in rows if row.get("score") is not None):
            row["recorded_score"] = row.pop("score")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    sources: Counter[str] = Counter()
    with progress("judge", len(rows)) as advance:
        for group in groups.values():
            sources[_judge_prompt(group, config, verdicts)] += 1
            advance(len(group))
    rewards = reward_rows(rows, scorer, context) if scorer else {}
    quality = _quality(rows, list(groups.values()), sources) | rewards
    names = [name for name in table.column_names if name in COLUMNS and name not in ADDS]
    return StageOutput(make_table(rows, (*names, *ADDS)), dropped, quality)


def _named(
    rows: list[Row], config: JudgeConfig, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], dict[str, Score]]:
    """The rows without those on which a verifier of another kind failed, and what it said: row id -> score."""
    if config.kind == "recorded":
        return rows, {}
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(verifier_of(row, config).kind, []).append(row)
    verdicts: dict[str, Score] = {}
    for kind, group in by_kind.items():
        if kind != ANSWER:
            verifier = verifier_of(group[0], config)
            check_ready(verifier, group)
            verdicts |= scored_rows(group, verifier, context, dropped, f"check {kind}")
    kept = [row for row in rows if row["id"] in verdicts or verifier_of(row, config).kind == ANSWER]
    if rows and not kept:
        raise PrefoptError("judge: the check failed on every row; see the lines above")
    return kept, verdicts


def verifier_of(row: Mapping[str, Any], config: JudgeConfig) -> VerifyConfig:
    """The verifier of a row: that of the settings, with kind auto `constraints` where the prompt has some and no gold answer."""
    by_default = config.kind == "auto" and config.verifier.kind == ANSWER
    return for_prompt(row, config.verifier) if by_default else config.verifier


def _scorer(config: JudgeConfig) -> RewardScorer:
    from prefopt.judges.reward_model import RewardScorer
    from prefopt.models.find import resolve_model

    if config.model is None:
        raise PrefoptError(
            "judge: kind reward_model, but no judge.model; give the directory of a reward model"
        )
    return RewardScorer(
        resolve_model(config.model), batch_size=config.batch_size, max_length=config.max_length
    )


def reward_rows(rows: Sequence[Row], scorer: RewardScorer, context: Context) -> dict[str, Any]:
    """Set `score` of every row to its reward, in place, stored in parts; figures for the manifest.

    null: the prompt is too long for the model, or refused by its
    chat template. `reward_accuracy`: share of prompts with right and wrong answers whose best-scored one is right.
    """

    def read(chunk: Sequence[Row], start: int) -> list[Row]:
        return [{"score": score} for score in scorer.scores(chunk)]

    found = map_parts(rows, read, folder=context.folder, part_rows=1024, label="reward")
    mixed: dict[str, list[Row]] = {}
    for row, scored in zip(rows, found, strict=True):
        row["score"] = scored["score"]
        if row["score"] is not None and row["n_correct"] not in (None, 0, row["n"]):
            mixed.setdefault(row["prompt_id"], []).append(row)
    scores = [row["score"] for row in rows if row["score"] is not None]
    best = [float(max(group, key=lambda row: row["score"])["is_correct"]) for group in mixed.values()]
    return {
        "reward": {
            "mean": statistics.fmean(scores) if scores else None,
            "sd": statistics.pstdev(scores) if scores else None,
            "unscored": len(rows) - len(scores),
        },
        "reward_accuracy": share_interval(best) if best else None,
    }


def _check_source(rows: Sequence[Row], config: JudgeConfig) -> None:
    by_gold = config.kind == "verifier" and config.verifier.kind == ANSWER
    if by_gold and not any(row.get("gold") for row in rows):
        raise PrefoptError(
            "judge: kind verifier, but no row has a gold answer; add a column `gold`, or set judge.kind to auto"
        )
    if config.kind == "recorded" and not any(_has_verdict(row) for row in rows):
        raise PrefoptError(
            "judge: kind recorded, but no row has `is_correct` or `score`; set judge.kind to verifier"
        )


def _has_verdict(row: Mapping[str, Any]) -> bool:
    return row.get("is_correct") is not None or row.get("score") is not None


def _judge_prompt(group: list[Row], config: JudgeConfig, verdicts: Mapping[str, Score]) -> str:
    """Fill in the rows of one prompt, in place; says where the verdicts came from: a verifier, recorded or none."""
    if group[0]["id"] in verdicts:
        _judge_by_name(group, verdicts)
        return verifier_of(group[0], config).kind
    golds = {row["gold"] for row in group if row.get("gold") is not None}
    if len(golds) > 1:
        raise PrefoptError(
            f"judge: prompt {group[0]['prompt_id']!r} has several gold answers ({', '.join(sorted(golds))[:80]}); give one"
        )
    gold = gold_answer(golds.pop(), config.verifier) if golds else None
    answers = [extract_answer(row["completion"] or "", config.verifier) for row in group]
    classes, gold_class = answer_classes(answers, gold, config.verifier)
    for row, answer, number in zip(group, answers, classes, strict=True):
        row["answer"], row["answer_class"] = answer, number
    source = "none"
    if gold is not None and config.kind != "recorded":
        source = "verifier"
        _keep_recorded(group)
        for row in group:
            row["is_correct"] = row["answer_class"] == gold_class
            row["score"] = float(row["is_correct"])
    elif config.kind != "verifier" and any(_has_verdict(row) for row in group):
        source = "recorded"
        for row in group:
            flag = row.setdefault("is_correct", None)
            if row.get("score") is None:
                row["score"] = None if flag is None else float(flag)
    else:
        for row in group:
            row["is_correct"] = row["score"] = None
    statistics = prompt_statistics(classes, [row["is_correct"] for row in group])
    for row in group:
        row.update(statistics)
    return source


def _judge_by_name(group: list[Row], verdicts: Mapping[str, Score]) -> None:
    """`_judge_prompt` by a verifier of another kind: it says what is right; answers are told apart by what it names, or by text."""
    found = [verdicts[row["id"]] for row in group]
    _keep_recorded(group)
    texts = [" ".join((row["completion"] or "").split()) or None for row in group]
    for row, score, text in zip(group, found, texts, strict=True):
        row["answer"] = score.answer if score.answer is not None else text
        row["is_correct"], row["score"] = score.is_correct, score.score
        if score.details is not None:
            row["followed"] = score.details
    numbers: dict[str, int] = {}
    for row in group:
        row["answer_class"] = (
            UNPARSED if row["answer"] is None else numbers.setdefault(row["answer"], len(numbers))
        )
    statistics = prompt_statistics(
        [row["answer_class"] for row in group], [row["is_correct"] for row in group]
    )
    for row in group:
        row.update(statistics)


def _keep_recorded(group: Sequence[Row]) -> None:
    for row in group:
        for name in ("is_correct", "score"):
            if row.get(name) is not None:
                row[f"recorded_{name}"] = row[name]


def prompt_statistics(classes: Sequence[int], correct: Sequence[bool | None]) -> Row:
    """`STATISTICS` of one prompt from its answer classes and verdicts (null counts where a verdict is missing)."""
    n = len(classes)
    sizes = Counter(number for number in classes if number != UNPARSED)
    known = None not in correct
    right = sum(bool(flag) for flag in correct)
    return {
        "n": n,
        "n_correct": right if known else None,
        "n_incorrect": n - right if known else None,
        "n_unparsed": n - sizes.total(),
        "n_distinct": len(sizes),
        "answer_entropy": entropy_nats(list(sizes.values())),
        "majority_share": max(sizes.values(), default=0) / n,
    }


# ---- figures


def _quality(rows: Sequence[Row], groups: Sequence[Sequence[Row]], sources: Counter[str]) -> dict[str, Any]:
    known = [group for group in groups if group[0]["n_correct"] is not None]
    first = [min(group, key=lambda row: row.get("completion_index") or 0) for group in known]
    judged = [row for group in known for row in group]
    counts = [(group[0]["n"], group[0]["n_correct"]) for group in known]
    histogram = Counter(right for _, right in counts)
    return {
        "prompts": len(groups),
        "completions": len(rows),
        "judged_by": dict(sorted(sources.items())),
        # one sample per prompt: the plain Wilson interval; all samples: by the spread between prompts
        "accuracy_one": share_interval([float(row["is_correct"]) for row in first]),
        "accuracy": share_interval(
            [float(row["is_correct"]) for row in judged], [r["prompt_id"] for r in judged]
        ),
        "pass_at_k": mean_pass_at_k(counts),
        "difficulty": {str(right): histogram[right] for right in sorted(histogram)},
        "unsolved": histogram[0],
        "all_right": sum(n == c for n, c in counts),
        "unparsed_share": sum(row["answer"] is None for row in rows) / len(rows) if rows else None,
        "agreement": agreement(rows),
        "by_model": _by_model(rows),
        **length_figures(rows),
    }


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Our verdicts against recorded flags: counts of agree, of right by one side alone, and the rate; null without flags."""
    both = [
        (row["is_correct"], row["recorded_is_correct"])
        for row in rows
        if row.get("recorded_is_correct") is not None
    ]
    if not both:
        return None
    counts = Counter(both)
    agree = counts[True, True] + counts[False, False]
    return {
        "agree": agree,
        "verifier_alone": counts[True, False],
        "recorded_alone": counts[False, True],
        "rate": agree / len(both),
    }


def _by_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of each model where several wrote the completions."""
    verdicts: dict[str, list[float]] = {}
    for row in rows:
        if row.get("model") is not None and row["is_correct"] is not None:
            verdicts.setdefault(row["model"], []).append(float(row["is_correct"]))
    if not 2 <= len(verdicts) <= MOST_MODELS:
        return {}
    return {name: share_interval(verdicts[name]) for name in sorted(verdicts)}


def _outside(config: JudgeConfig) -> list[str]:
    if config.kind != "reward_model":
        return verifier_digests(config.verifier)
    from prefopt.models.find import resolve_model
    from prefopt.models.load import model_digest

    models = [model_digest(resolve_model(config.model))] if config.model is not None else []
    return [*models, *verifier_digests(config.verifier)]


STAGE = Stage(
    number=2,
    name="judge",
    config=JudgeConfig,
    run=judge,
    reads=("id", "prompt_id", "prompt", "completion"),
    adds=ADDS,
    about="extract and check final answers, statistics per prompt",
    outside=_outside,
)
