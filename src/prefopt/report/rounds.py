"""What every round of a recipe of several reached, on the same test prompts and held-out pairs."""

from __future__ import annotations

from typing import Any

from prefopt.report import plots
from prefopt.report.load import RunData
from prefopt.report.sections import METRICS, arm_kinds, shown_name
from prefopt.report.text import number, percent, percent_interval


def rounds(run: RunData) -> dict[str, Any] | None:
    """A figure and a table per measure; None for recipes of one round."""
    found = run.summary.get("rounds") or {}
    most = max((len(entries) for entries in found.values()), default=0)
    measures = [name for name in METRICS if any(e.get(name) for entries in found.values() for e in entries)]
    if most < 2 or not measures:
        return None
    return {
        "columns": ["base", *(f"round {k}" for k in range(1, most + 1))],
        "measures": [_measure(run, name, most) for name in measures],
        "key": [(arm_kinds(run)[arm], "line", shown_name(run, arm)) for arm in found],
        "pairs": _pairs(run, most),
    }


def _measure(run: RunData, name: str, most: int) -> dict[str, Any]:
    kinds, base = arm_kinds(run), (run.summary.get(name) or {}).get("base")
    series, rows = [], []
    for arm, entries in run.summary["rounds"].items():
        means = [base, *(entry.get(name) for entry in entries)]
        spots = [
            (float(k), 100 * found["mean"])
            for k, found in enumerate(means)
            if found and found["mean"] is not None
        ]
        shown = shown_name(run, arm)
        series.append(plots.Series(shown, kinds[arm], [x for x, _ in spots], [y for _, y in spots]))
        cells = [_cell(found) for found in means] + [None] * (most + 1 - len(means))
        rows.append({"name": shown, "kind": kinds[arm], "main": arm == run.main, "cells": cells})
    return {
        "title": METRICS[name],
        "figure": plots.lines(f"{METRICS[name]}, % by round", series, unit="percent by round"),
        "rows": rows,
    }


def _cell(found: dict[str, Any] | None) -> tuple[str, str] | None:
    if not found or found.get("mean") is None:
        return None
    return percent(found["mean"]), percent_interval(found)


def _pairs(run: RunData, most: int) -> str:
    """How many pairs the main arm's rounds were trained on."""
    counts = [number(entry.get("pairs")) for entry in run.summary["rounds"][run.main]]
    return f"Training pairs of {shown_name(run, run.main)} by round: {', '.join(counts)}."
