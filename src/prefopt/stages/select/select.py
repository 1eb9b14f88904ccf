"""Stage 05, select: mark the pairs that the reference model itself shows to be clear (after 2501.15109).

Every row stays in the table; `kept` says which train rows go on. The rules are in `prefopt.rules.selection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError, nearest
from prefopt.rules import selection
from prefopt.rules.content import text_of
from prefopt.rules.describe import by_decile, correlation, histogram, mean
from prefopt.rules.selection import find_rule, rule_digests
from prefopt.stages.select.settings import SelectConfig
from prefopt.stages.stage import Stage
from prefopt.tables.column_arrays import (
    Coded,
    Floats,
    Mask,
    Places,
    Texts,
    first_repeat,
    flags,
    floats,
    text_order,
    values_of,
)
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import Row, as_dataset
from prefopt.tables.table_rows import with_columns, with_stored_types

if TYPE_CHECKING:
    from datasets import Dataset

ADDS = ("gap_sum", "gap_mean", "kept")
SIDES = ("chosen", "rejected")
CATEGORY_COLUMNS = ("category", "subset")
SHOWN_CATEGORIES = 30
REMEDY = "run `prefopt reference` first, or take a rule that needs no score (random, all)"


def select(table: Dataset, config: SelectConfig, context: Context) -> StageOutput:
    """Add `gap_sum`, `gap_mean` (null where unknown) and `kept`; rows whose split is not train are kept unseen.

    `kept` is a pure function of (data, scores, rule, seed). Pairs cut at max_length are not scored, so a rule that
    needs scores does not keep them; their number and that of pairs without a score stand in `quality`.

    Raises:
        PrefoptError: a column is missing, ids are not unique, a score is not a number (strict), or nothing is kept.
    """
    table = with_stored_types(table)
    _check_ids(table)
    _check_columns(table, config)
    gaps, truncated = _gaps(table), flags(table, "truncated", lambda row: bool(row.get("truncated")))
    scores = np.where(truncated, np.nan, _scores(table, gaps, config))
    # sorted by id: figures are sums of floats, and must not depend on the order of rows
    by_id, is_own = text_order(table, "id"), flags(table, "split", is_train)
    train = by_id[is_own[by_id]]
    ids = Texts(table, "id", train)
    unscored = np.flatnonzero(~truncated[train] & np.isnan(scores[train]))
    if len(unscored) and context.strict and find_rule(config.rule).needs_score:
        raise PrefoptError(
            f"select: row {ids[int(unscored[0])]!r} has no {config.score} score (--strict); {REMEDY}"
        )
    mask, cuts = selection.choose(
        scores[train],
        ids,
        config.rule,
        fraction=config.fraction,
        limit=config.threshold or 0.0,
        seed=context.seed,
        strata=_strata(table, config.stratify_by, train) if config.stratify_by else None,
    )
    if not mask.any():
        raise PrefoptError(_nothing_kept(config, len(train), int(truncated[train].sum()), len(unscored)))
    kept = np.ones(table.num_rows, dtype=np.bool_)
    kept[train] = mask
    quality = {
        "settings": config.model_dump(mode="json"),
        "seed": context.seed,
        **_quality(table, train, gaps, scores, mask, truncated),
        "histogram": _histogram(config, scores[train], mask, cuts),
        "categories": _categories(table, train, mask, (config.stratify_by or "", *CATEGORY_COLUMNS)),
    }
    return StageOutput(with_columns(table, _added(gaps, kept), first=ADDS), {}, quality)


def _added(gaps: Mapping[str, Floats], kept: Mask) -> Dataset:
    """The columns `ADDS`; a gap that is not known is null."""
    import pyarrow as pa

    columns = {name: pa.array(gap, pa.float64(), mask=~np.isfinite(gap)) for name, gap in gaps.items()}
    return as_dataset(pa.table({**columns, "kept": pa.array(kept)}))


def is_train(row: Row) -> bool:
    """Whether a row is for training: its split is train, or it names none."""
    return (row.get("split") or "train") == "train"


def _check_ids(table: Dataset) -> None:
    place = first_repeat(table, "id")
    if place is not None:
        name = table.data.table.column("id")[place].as_py()
        raise PrefoptError(f"select: id {name!r} stands in several rows; give every row its own id")


def _check_columns(table: Dataset, config: SelectConfig) -> None:
    names = table.column_names
    for setting in ("column", "stratify_by"):
        name = getattr(config, setting)
        if name is not None and name not in names:
            raise PrefoptError(f"select: {setting}: the table has no column {name!r}, {nearest(name, names)}")
    if not find_rule(config.rule).needs_score or config.score == "column":
        return
    if "completion" in names and "chosen" not in names:
        raise PrefoptError(
            f"select: rule {config.rule} ranks by the gap between two answers, but the data is unpaired; take rule all "
            "or random, or score column"
        )
    needed = ["ref_chosen_logps", "ref_rejected_logps"]
    needed += ["chosen_tokens", "rejected_tokens"] if config.score.endswith("gap_mean") else []
    for name in needed:
        if name not in names or table.data.table.column(name).null_count == table.num_rows:
            raise PrefoptError(f"select: column {name!r} is missing; {REMEDY}")


def _gaps(table: Dataset) -> dict[str, Floats]:
    chosen, rejected = (
        floats(table, "ref_chosen_logps", "select"),
        floats(table, "ref_rejected_logps", "select"),
    )
    tokens = [floats(table, f"{side}_tokens", "select") for side in SIDES]
    return {
        "gap_sum": selection.gap_sum(chosen, rejected),
        "gap_mean": selection.gap_mean(chosen, rejected, *tokens),
    }


def _scores(table: Dataset, gaps: dict[str, Floats], config: SelectConfig) -> Floats:
    if config.column is not None:
        return floats(table, config.column, "select")
    gap = gaps[config.score.removeprefix("abs_")]
    return np.abs(gap) if config.score.startswith("abs_") else gap


def _strata(table: Dataset, name: str, train: Places) -> NDArray[np.object_]:
    return Coded(values_of(table, name), table.num_rows).texts(train)


def _nothing_kept(config: SelectConfig, pairs: int, truncated: int, unscored: int) -> str:
    if not pairs:
        return (
            "select: the table holds no pair for training (split train); give more data or a smaller heldout"
        )
    return (
        f"select: rule {config.rule} keeps none of {pairs} train pairs ({truncated} truncated, {unscored} without "
        f"score); take another rule or threshold, or a larger max_length in `prefopt reference`"
    )


def _histogram(
    config: SelectConfig, scores: Floats, kept: Mask, cuts: dict[str, list[float]]
) -> dict[str, Any]:
    """Counts of scores, all and kept, with the cuts: one list, or those of every stratum."""
    single = config.stratify_by is None
    every = [cut for values in cuts.values() for cut in values]
    return {
        "score": config.column or config.score,
        **histogram(scores, kept, include=every),
        "cuts": every if single else [],
        "cuts_by_stratum": {} if single else cuts,
    }


def _quality(
    table: Dataset, train: Places, gaps: Mapping[str, Floats], scores: Floats, kept: Mask, truncated: Mask
) -> dict[str, Any]:
    """What spec and report want to know of the N train rows: counts, histogram, correlations, lengths, shares.

    train [N]: their places in the table, kept [N]: which of them are. The other arrays are of all rows.
    """
    lengths, unit = _lengths(table, train)
    difference = lengths["chosen"] - lengths["rejected"]
    margin = floats(table, "margin", "select")[train]
    gaps, truncated = {name: gap[train] for name, gap in gaps.items()}, truncated[train]
    scored = np.isfinite(scores[train])
    parts = {"all": np.ones(len(train), dtype=np.bool_), "kept": kept, "dropped": ~kept}
    return {
        "counts": {
            "train": len(train),
            "kept": int(kept.sum()),
            "dropped": int((~kept).sum()),
            "scored": int(scored.sum()),
            "truncated": int(truncated.sum()),
            "unscored": int((~scored & ~truncated).sum()),
            "rows": table.num_rows,
            "held_out": table.num_rows - len(train),
        },
        "share_gap_positive": {
            name: {part: _share_positive(gap[mask]) for part, mask in parts.items()}
            for name, gap in gaps.items()
        },
        "gap_length_correlation": {name: correlation(gap, difference) for name, gap in gaps.items()},
        "gap_margin_correlation": {name: correlation(gap, margin) for name, gap in gaps.items()},
        "gap_by_margin_decile": {
            name: by_decile(gap, margin, Texts(table, "id", train)) for name, gap in gaps.items()
        },
        "mean_length": {
            "unit": unit,
            **{
                part: {side: mean(x[mask]) for side, x in lengths.items()}
                for part, mask in parts.items()
            },
        },
    }  # fmt: skip


def _lengths(table: Dataset, train: Places) -> tuple[dict[str, Floats], str]:
    """Length of the answers of the train rows in tokens, or in characters where tokens are not counted."""
    tokens = {side: floats(table, f"{side}_tokens", "select")[train] for side in SIDES}
    if all(np.isfinite(x).any() for x in tokens.values()):
        return tokens, "tokens"
    return {side: _characters(table, side)[train] for side in SIDES}, "characters"


def _characters(table: Dataset, side: str) -> Floats:
    if side not in table.column_names:
        return np.zeros(table.num_rows)
    lengths = (len(text_of(answer)) for answer in values_of(table, side))
    return np.fromiter(lengths, np.float64, count=table.num_rows)


def _share_positive(gap: Floats) -> float | None:
    known = gap[np.isfinite(gap)]
    return float(np.mean(known > 0)) if len(known) else None


def _categories(table: Dataset, train: Places, kept: Mask, columns: Iterable[str]) -> dict[str, Any]:
    """Column -> value -> pairs, kept pairs and their shares; the most frequent values, the rest together."""
    present = [name for name in dict.fromkeys(columns) if name in table.column_names]
    return {name: _shares(Coded(values_of(table, name), table.num_rows), train, kept) for name in present}


def _shares(values: Coded, train: Places, kept: Mask) -> dict[str, Any]:
    codes, size = values.codes[train], len(values.names)
    pairs, keeps = np.bincount(codes, minlength=size), np.bincount(codes[kept], minlength=size)
    found = zip(values.names, pairs.tolist(), keeps.tolist(), strict=True)
    counts = {name: [all_, keep] for name, all_, keep in found if all_}
    ordered = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))
    shown, rest = ordered[:SHOWN_CATEGORIES], ordered[SHOWN_CATEGORIES:]
    if rest:
        total = [sum(c[i] for _, c in rest) for i in (0, 1)]
        shown.append((f"({len(rest)} more)", total))
    return {
        value: {
            "pairs": pairs,
            "kept": keep,
            "share_of_all": pairs / len(train),
            "share_of_kept": keep / int(kept.sum()),
        }
        for value, (pairs, keep) in shown
    }


STAGE = Stage(
    number=5,
    name="select",
    config=SelectConfig,
    run=select,
    reads=("id",),  # what else is read depends on rule and score; select names what is missing
    adds=ADDS,
    about="keep the pairs that the reference model shows to be clear",
    outside=lambda config: rule_digests(config.rule),
)
