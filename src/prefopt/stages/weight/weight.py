"""Stage 06, weight: one weight per pair, multiplied into any loss (after 2412.20996).

Rows that 05 did not keep leave the table here. The schemes are in `prefopt.rules.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from prefopt.core.errors import PrefoptError, nearest
from prefopt.rules import weights
from prefopt.rules.describe import histogram, mean
from prefopt.rules.pairing import UNPARSED
from prefopt.rules.weights import Scheme
from prefopt.stages.select.select import is_train
from prefopt.stages.stage import Stage
from prefopt.stages.weight.settings import WeightConfig
from prefopt.tables.column_arrays import (
    Floats,
    Mask,
    Places,
    Texts,
    flags,
    floats,
    is_among,
    narrow_rows,
    text_numbers,
    text_order,
)
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import Row, as_dataset
from prefopt.tables.table_rows import with_columns, with_stored_types

if TYPE_CHECKING:
    from datasets import Dataset

ADDS = ("weight",)
NOT_SELECTED = "not selected"
STATISTICS = ("n", "n_correct", "n_unparsed", "n_rejected_class", "majority_share", "answer_entropy")
COUNTED = ("n", "n_correct", "n_error", "n_majority", "answer_entropy")  # what schemes read
SUBSETS = ("n_correct", "n_unparsed", "n_rejected_class")  # counts of some of the n samples
LARGEST = 1e12  # a given weight beyond is a slip of the data, and would drown all other pairs


def weight(table: Dataset, config: WeightConfig, context: Context) -> StageOutput:
    """Drop the rows not kept by 05 and add `weight`: by scheme for train rows, 1 for held-out ones.

    A train row whose statistics or given weight cannot be used is dropped with a reason (an error when strict).
    `context.inputs["completions"]` (a 02-judge table), if given, yields the half-split rank correlation.

    Raises:
        PrefoptError: the scheme's columns are missing, a bad row under strict, no pair left, or all weights 0.
    """
    scheme = weights.find_scheme(config.scheme)
    needed = _needed_columns(scheme, config)
    check_scheme(table.column_names, config)
    table = with_stored_types(table)
    kept, own, dropped = _usable(table, needed, config, context)
    if not len(own):
        raise PrefoptError(f"weight: no training pair is left ({_reasons(dropped)}); give more or other data")
    prompts = text_numbers(table, "prompt_id")[own]
    raw = _raw_weights(table, own, prompts, scheme, config, context.seed)
    final = weights.finish(
        raw, prompts, clip=config.clip, per_prompt=config.per_prompt, normalize=config.normalize
    )
    quality = _quality(table, own, prompts, raw, final, config)
    quality["half_split"] = _half_split(table, own, scheme, config, context)
    if config.scheme != "column" or config.column != "weight":
        has_weight = flags(table, "weight", lambda row: row.get("weight") is not None)
        quality["replaced_weights"] = int(has_weight[own].sum())
    every = np.ones(table.num_rows)
    every[own] = final
    return StageOutput(with_columns(table, _added(every[kept]), kept, first=ADDS), dropped, quality)


def _added(final: Floats) -> Dataset:
    import pyarrow as pa

    return as_dataset(pa.table({"weight": final}))


def _usable(
    table: Dataset, needed: list[str], config: WeightConfig, context: Context
) -> tuple[Mask, Places, dict[str, int]]:
    """Which rows [N] stay, the places of the training rows among them, and the others counted by reason."""
    kept, is_own = np.zeros(table.num_rows, dtype=np.bool_), np.zeros(table.num_rows, dtype=np.bool_)
    dropped: dict[str, int] = {}
    for place, row in enumerate(narrow_rows(table, ["id", "kept", "split", *STATISTICS, *needed])):
        if row.get("kept") is False:  # a decision, not a fault: no matter for strict
            dropped[NOT_SELECTED] = dropped.get(NOT_SELECTED, 0) + 1
            continue
        problem = _problem(row, needed, config) if is_train(row) else None
        if problem:
            context.drop(dropped, problem, f"weight: row {row['id']!r}")
            continue
        kept[place], is_own[place] = True, is_train(row)
    return kept, np.flatnonzero(is_own), dropped


def _needed_columns(scheme: Scheme, config: WeightConfig) -> list[str]:
    """Columns of the table that the scheme reads under these settings."""
    if config.scheme == "column":
        return [config.column]
    needed = list(scheme.needs)
    if "n" in needed and config.unparsed == "ignore":
        needed.append("n_unparsed")
    if scheme.by_errors and config.errors == "class":
        needed.append("n_rejected_class")
    return needed


def check_scheme(names: Collection[str], config: WeightConfig) -> None:
    """Raise `PrefoptError` where a table of these columns lacks what the scheme reads."""
    needed = _needed_columns(weights.find_scheme(config.scheme), config)
    missing = [name for name in needed if name not in names]
    if not missing:
        return
    if config.scheme == "column":
        raise PrefoptError(
            f"weight: column {config.column!r} of given weights is missing, {nearest(config.column, names)}"
        )
    plural = "s" if len(missing) > 1 else ""
    raise PrefoptError(
        f"weight: scheme {config.scheme} needs column{plural} {', '.join(missing)}, which `prefopt judge` and "
        "`prefopt rank` make from samples; schemes uniform and column (given weights) need none"
    )


def _problem(row: Row, needed: list[str], config: WeightConfig) -> str | None:
    """Why a row cannot be weighted, else None."""
    values = [row[name] for name in needed]
    given = config.scheme == "column"
    if not all(_is_number(value) for value in values):
        return "weight is not a finite number" if given else "sampling statistics are missing"
    if any(value < 0 for value in values):
        return "weight is negative" if given else "sampling statistics are negative"
    if given:
        return f"weight is above {LARGEST:g}" if values[0] > LARGEST else None
    if "n" not in needed:
        return None
    counts = _counts(row, config)
    if counts["n"] <= 0:
        return "no sample of the prompt counts"
    too_many = any(row[name] > row["n"] for name in needed if name in SUBSETS)
    if too_many or counts["n_error"] < 0 or counts["n_majority"] > counts["n"]:
        return "sampling statistics contradict each other"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _counts(row: Row, config: WeightConfig) -> dict[str, float]:
    """The statistics of a pair's prompt under names of `Scheme`; NaN where the row has none."""
    have = {name: float(row[name]) if _is_number(row.get(name)) else math.nan for name in STATISTICS}
    n = have["n"] - (have["n_unparsed"] if config.unparsed == "ignore" else 0.0)
    n_error = n - have["n_correct"]
    if config.errors == "class":
        # a class of unparsed answers is not counted among n when those are ignored
        n_error = min(n_error, have["n_rejected_class"])
    share = have["majority_share"] * have["n"]
    n_majority = float(round(share)) if math.isfinite(share) else math.nan
    return {**have, "n": n, "n_error": n_error, "n_majority": n_majority}


def _raw_weights(
    table: Dataset, own: Places, prompts: Places, scheme: Scheme, config: WeightConfig, seed: int
) -> Floats:
    """Weights [B] of the rows `own` as the scheme gives them, not yet clipped or normalised."""
    columns = {"row": np.ones(len(own))}
    if config.scheme == "column":
        columns["given"] = floats(table, config.column, "weight")[own]
    elif scheme.needs:
        columns |= _count_columns(table, own, config)
    raw = scheme.weigh(columns, config.alpha, config.epsilon)
    return _shuffled(table, own, prompts, raw, seed) if scheme.shuffled else raw


def _count_columns(table: Dataset, own: Places, config: WeightConfig) -> dict[str, Floats]:
    """What a scheme reads of `_counts` of the rows `own`, [B] each."""
    columns = {name: np.empty(len(own)) for name in COUNTED}
    is_own = np.zeros(table.num_rows, dtype=np.bool_)
    is_own[own] = True
    for place, row in enumerate(compress(narrow_rows(table, ["id", *STATISTICS]), is_own)):
        counts = _counts(row, config)
        for name in COUNTED:
            columns[name][place] = counts[name]
    return columns


def _shuffled(table: Dataset, own: Places, prompts: Places, raw: Floats, seed: int) -> Floats:
    rank = np.empty(table.num_rows, dtype=np.int64)
    rank[text_order(table, "id")] = np.arange(table.num_rows)
    _, firsts, numbers = np.unique(prompts, return_index=True, return_inverse=True)
    names = Texts(table, "prompt_id", own[firsts])
    return weights.shuffle_numbered(raw, np.argsort(rank[own]), numbers, names, seed)


def _reasons(dropped: dict[str, int]) -> str:
    return (
        ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or "the table is empty"
    )


def _quality(
    table: Dataset, own: Places, prompts: Places, raw: Floats, final: Floats, config: WeightConfig
) -> dict[str, Any]:
    """Distribution of the weights of B training pairs, before and after clip, per_prompt and normalisation.

    own [B]: their places in the table. prompts [B]: numbers of their prompts.
    """
    shown = histogram(final, np.ones(len(final), dtype=np.bool_))
    known = "n_correct" in table.column_names
    n_correct = floats(table, "n_correct", "weight")[own]
    last = len(own) - 1 - np.unique(prompts[::-1], return_index=True)[1]  # of each prompt
    return {
        "settings": config.model_dump(mode="json"),
        "pairs": len(own),
        "prompts": len(last),
        "unsolved_prompts": int((n_correct[last] == 0).sum()) if known else None,
        "raw": _distribution(raw),
        "final": _distribution(final),
        "histogram": {"edges": shown["edges"], "all": shown["all"]},
        "by_n_correct": _by_n_correct(n_correct, prompts, raw, final) if known else [],
    }


def _distribution(w: Floats) -> dict[str, float | None]:
    """Extremes, mean, and the number of equal weights that would average as noisily (Kish)."""
    square = math.fsum(w * w)
    return {
        "min": float(w.min()),
        "mean": mean(w),
        "max": float(w.max()),
        "effective_pairs": math.fsum(w) ** 2 / square if square > 0 else 0.0,
    }


def _by_n_correct(n_correct: Floats, prompts: Places, raw: Floats, final: Floats) -> list[dict[str, Any]]:
    groups = [
        (int(count), np.flatnonzero(n_correct == count))
        for count in np.unique(n_correct[~np.isnan(n_correct)])
    ]
    return [
        {
            "n_correct": count,
            "prompts": len(np.unique(prompts[where])),
            "pairs": len(where),
            "mean_raw": mean(raw[where]),
            "mean_weight": mean(final[where]),
        }
        for count, where in groups
    ]


def _half_split(
    table: Dataset, own: Places, scheme: Scheme, config: WeightConfig, context: Context
) -> dict[str, Any] | None:
    """Rank correlation over prompts of w from two halves of their samples; None without samples.

    Over every training prompt that was sampled; `paired`: over those with a training pair. Having one says that right
    and wrong samples were drawn, which by itself pulls this figure down when samples are few. All wrong samples count as
    errors, whatever `errors` says: a half knows no rejected answer.
    """
    samples = context.inputs.get("completions")
    if samples is None or not scheme.from_counts or "is_correct" not in samples.column_names:
        return None
    used = flags(samples, "split", is_train)
    if config.unparsed == "ignore":
        used &= flags(samples, "answer_class", lambda row: row.get("answer_class") != UNPARSED)
    paired = used & is_among(samples, table, "prompt_id", own)
    correlations = [
        _split_correlation(samples, np.flatnonzero(which), scheme, config, context.seed)
        for which in (used, paired)
    ]
    return {**correlations[0], "paired": correlations[1]}


def _split_correlation(
    samples: Dataset, places: Places, scheme: Scheme, config: WeightConfig, seed: int
) -> dict[str, Any]:
    def weigh(n: Floats, n_correct: Floats) -> Floats:
        columns = {"n": n, "n_correct": n_correct, "n_error": n - n_correct}
        return scheme.weigh(columns, config.alpha, config.epsilon)

    is_correct = flags(samples, "is_correct", lambda row: bool(row["is_correct"]))[places]
    prompts, ids = text_numbers(samples, "prompt_id")[places], Texts(samples, "id", places)
    spearman, count = weights.half_split(prompts, ids, is_correct, weigh, seed)
    return {"spearman": spearman, "prompts": count}


STAGE = Stage(
    number=6,
    name="weight",
    config=WeightConfig,
    run=weight,
    reads=("id", "prompt_id"),  # further columns depend on the scheme; weight names what is missing
    adds=ADDS,
    about="give every pair a weight (difficulty)",
)
