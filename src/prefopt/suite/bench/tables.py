"""Reading a result of the bench: standard errors, paired differences, orderings with verdicts, tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CLEAR = 2.0  # standard errors of a paired difference from which on an ordering counts as seen
Row = Mapping[str, Any]


def summarise(returns: np.ndarray) -> dict[str, Any]:
    """returns per seed, their mean and its standard error."""
    error = float(np.std(returns, ddof=1) / math.sqrt(len(returns)))
    return {"returns": returns.tolist(), "mean": float(np.mean(returns)), "standard_error": error}


def by_cell(rows: Sequence[Row]) -> dict[tuple[str, str], np.ndarray]:
    """(loss, variant) -> returns per seed."""
    return {(row["loss"], row["variant"]): np.asarray(row["returns"]) for row in rows}


def compare(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over seeds and its standard error (paired: equal seeds share start states and rows)."""
    difference = a - b
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def verdict(difference: float, error: float) -> str:
    """confirmed, refuted (both beyond CLEAR standard errors) or undecided."""
    if difference > CLEAR * error:
        return "confirmed"
    return "refuted" if difference < -CLEAR * error else "undecided"


EXPECTED = (  # a better than b, as the literature has it, on every variant
    ("dpop", "dpo"), ("dpo_budget", "dpo"), ("simpo_budget", "simpo"), ("robust_budget", "robust"),
    ("dpo_select_30", "dpo"), ("dpo_select_40", "dpo"), ("dpo_select_50", "dpo"), ("dpo_select_40", "dpo_random_40"),
    ("dpo_select_40", "dpo_bottom_40"), ("dpo_difficulty", "dpo"), ("dpo", "sft"), ("kto", "dpo"),
)  # fmt: skip
EXPECTED_UNDER_NOISE = (("cdpo", "dpo"), ("robust", "dpo"))


def orderings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Orderings that the literature expects, each with the paired difference and its verdict; only cells that exist."""
    cells = by_cell(rows)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    out = []

    def add(better: tuple[str, str], worse: tuple[str, str], claim: str) -> None:
        if better in cells and worse in cells and len(cells[better]) == len(cells[worse]):
            difference, error = compare(cells[better], cells[worse])
            out.append({
                "claim": claim, "better": list(better), "worse": list(worse), "difference": difference,
                "standard_error": error, "verdict": verdict(difference, error),
            })  # fmt: skip

    for variant in variants:
        noise = EXPECTED_UNDER_NOISE if variant.startswith("noisy") else ()
        for a, b in (*EXPECTED, *noise):
            add((a, variant), (b, variant), f"{a} better than {b} on {variant}")
        if variant != "base":
            for loss in losses:
                add((loss, "base"), (loss, variant), f"{loss}: better on base than on {variant}")
    return out


def ranking(rows: Sequence[Row], variant: str) -> list[str]:
    """Methods of a variant, best first."""
    own = [row for row in rows if row["variant"] == variant]
    return [row["loss"] for row in sorted(own, key=lambda row: (-row["mean"], row["loss"]))]


def orderings_markdown(result: Mapping[str, Any]) -> str:
    """The orderings between methods: difference of returns and verdict, a column per variant."""
    rows = [row for row in result["orderings"] if row["better"][1] == row["worse"][1]]
    names = dict.fromkeys((row["better"][0], row["worse"][0]) for row in rows)
    variants = list(dict.fromkeys(row["better"][1] for row in rows))
    found = {(row["better"][0], row["worse"][0], row["better"][1]): row for row in rows}
    lines = [f"| expected | {' | '.join(variants)} |", "|---" * (len(variants) + 1) + "|"]
    for a, b in names:
        cells = [_verdict_cell(found.get((a, b, variant))) for variant in variants]
        lines.append(f"| {a} better than {b} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def costs_markdown(result: Mapping[str, Any]) -> str:
    """Return on base minus return on every other variant, by method."""
    rows = [row for row in result["orderings"] if row["better"][1] != row["worse"][1]]
    variants = list(dict.fromkeys(row["worse"][1] for row in rows))
    found = {(row["worse"][0], row["worse"][1]): row for row in rows}
    lines = [f"| method | {' | '.join(variants)} |", "|---" * (len(variants) + 1) + "|"]
    for loss in dict.fromkeys(row["worse"][0] for row in rows):
        lines.append(f"| {loss} | {' | '.join(_verdict_cell(found.get((loss, v))) for v in variants)} |")
    return "\n".join(lines) + "\n"


def _verdict_cell(row: Row | None) -> str:
    return "" if row is None else f"{row['difference']:+.0f} ± {row['standard_error']:.0f}, {row['verdict']}"


def data_markdown(result: Mapping[str, Any]) -> str:
    """What the rows really are that a method keeps, beside those that it was given; methods that keep all are left out."""
    lines = [
        "| method | variant | rows | wrong labels | pairs of two reference trajectories | winner's return |",
        "|---|---|---|---|---|---|",
    ]
    given = {row["variant"]: row["data"] for row in result["rows"]}
    shown = [("all", variant, data) for variant, data in given.items()]
    shown += [
        (row["loss"], row["variant"], row["data_trained"])
        for row in result["rows"]
        if row["data_trained"]["rows"] != row["data"]["rows"]
    ]
    for name, variant, data in sorted(shown, key=lambda x: list(given).index(x[1])):
        lines.append(
            f"| {name} | {variant} | {data['rows']:.0f} | {100 * data['flip_rate']:.0f}% | "
            f"{100 * data['mixed_share']:.0f}% | {data['winner_return']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def tuned_markdown(result: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """Hyperparameters that tuning chose, its score, and which of them lie at an edge of their grid."""
    lines = ["| method | hyperparameters | score in tuning | at an edge |", "|---|---|---|---|"]
    for loss in dict.fromkeys(row["loss"] for row in result["rows"]):
        found = tuned["losses"][loss]
        hyper = ", ".join(f"{key.split('.')[-1]} {value:g}" for key, value in found["hyper"].items())
        edges = ", ".join(key.split(".")[-1] for key in found["at_edge_of_grid"])
        lines.append(f"| {loss} | {hyper} | {found['score']:.0f} | {edges} |")
    return "\n".join(lines) + "\n"


def markdown(result: Mapping[str, Any]) -> str:
    """The table methods x variants, mean +- standard error of the return; the best of each column in bold."""
    rows = result["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    best = {variant: ranking(rows, variant)[0] for variant in variants}
    cells = {(row["loss"], row["variant"]): row for row in rows}
    lines = ["| method | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for loss in dict.fromkeys(row["loss"] for row in rows):
        texts = []
        for variant in variants:
            row = cells.get((loss, variant))
            text = "" if row is None else f"{row['mean']:.0f} ± {row['standard_error']:.0f}"
            texts.append(f"**{text}**" if best[variant] == loss else text)
        lines.append(f"| {loss} | " + " | ".join(texts) + " |")
    for name in ("reference", "expert"):
        figure = result["agents"][name]
        lines.append(
            f"| *{name}* | {figure['return']:.0f} ± {figure['standard_error']:.0f} |"
            + " |" * (len(variants) - 1)
        )
    return "\n".join(lines) + "\n"
