"""Trainings of a few rows: what they can and cannot show, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FEW_PAIRS = 50
FEW_PROMPTS = 10  # held out


def few_rows(counts: Mapping[str, int]) -> list[str]:
    """Warnings by `counts`: rows trained on (`train`), held-out prompts (`eval_prompts`), and, of unpaired data, `desired`."""
    said = []
    rows, held_out, desired = counts["train"], counts["eval_prompts"], counts.get("desired")
    if rows < FEW_PAIRS:
        what = f"{'pair' if desired is None else 'row'}{'s' if rows != 1 else ''}"
        said.append(f"only {rows} {what} to train on (fewer than {FEW_PAIRS}): what they teach may be chance")
    if 0 < held_out < FEW_PROMPTS:
        said.append(
            f"only {held_out} held-out prompt{'s' if held_out != 1 else ''} (fewer than {FEW_PROMPTS}): held-out figures say little; raise data.heldout or give more data"
        )
    if desired is not None and desired in (0, rows):
        word = "desired" if desired else "undesired"
        alike = f"all {rows} labels are alike" if rows != 1 else "there is one label"
        said.append(
            f"{alike} ({word}): losses of single answers set desired against undesired ones, and without both they only push all answers one way; give rows with the other label"
        )
    return said


def counts_of(examples: Sequence[Any], held_out: Iterable[str], *, unpaired: bool) -> dict[str, int]:
    """What `few_rows` wants to know. held_out: prompt ids of held-out rows."""
    counts = {"train": len(examples), "eval_prompts": len(set(held_out))}
    return counts | {"desired": sum(bool(example.label) for example in examples)} if unpaired else counts
