"""What of a finished stage is worth a warning: much was dropped, cut or empty. Read from its manifest, for terminal and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefopt.tables.progress import MUCH, rows_seen, worrying_drops

Figures = Mapping[str, Any]


def concerns(manifest: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that more than a tenth of the rows of a finished stage went through."""
    try:
        return list(_concerns(manifest))
    except (KeyError, TypeError, AttributeError):  # figures of another version
        return []


def _concerns(manifest: Mapping[str, Any]) -> Iterator[str]:
    stage, quality = str(manifest.get("stage")), manifest.get("quality") or {}
    drops = worrying_drops(manifest.get("dropped") or {}, rows_seen(manifest))
    if drops:
        yield f"{stage} {drops}"
    if stage == "reference":
        yield from _cut_answers(quality)
        if quality.get("kl_of_one_prompt"):
            yield (
                "reference: all rows ask one prompt, so KTO's estimate of the divergence is taken of other answers to it; "
                "give more prompts, or take apo_zero_unpaired or bco"
            )
    if stage == "sample":
        yield from _cut_completions(stage, quality, "sample.max_new_tokens")
        yield from [quality["empty_warning"]] if quality.get("empty_warning") else []
    if stage == "evaluate":
        for mode, figures in (quality.get("completions") or {}).items():
            yield from _cut_completions(f"evaluate, {mode}", figures, "evaluate.max_new_tokens")


def _cut_answers(quality: Figures) -> Iterator[str]:
    rows = quality.get("pairs", quality.get("rows")) or 0
    if quality["truncated"] > MUCH * rows:
        yield cut_answers("reference", quality["truncated"], rows, quality["max_length"])


def cut_answers(stage: str, cut: int, rows: int, max_length: int) -> str:
    """The warning of rows whose answers are longer than a stage takes."""
    return (
        f"{stage}: the answers of {cut:,} of {rows:,} rows ({100 * cut / rows:.1f}%) were cut at max_length {max_length:,}: "
        f"their ends are never seen, and select keeps none of them by score; raise {stage}.max_length"
    )


def _cut_completions(stage: str, figures: Figures, setting: str) -> Iterator[str]:
    share, count = figures.get("finish_length_share"), figures.get("completions") or 0
    if share is not None and share > MUCH:
        yield (
            f"{stage}: {100 * share:.1f}% of {count:,} completions were cut at max_new_tokens, most of them before their "
            f"answer; raise {setting}"
        )
