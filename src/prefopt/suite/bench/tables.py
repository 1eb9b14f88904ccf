"""Reading a result of the bench: paired differences over lineages, orderings with verdicts, tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefopt.suite.bench.statistics import interval, paired, with_verdicts

COLUMNS = {"tuned": "returns", "full": "returns_full", "early": "returns_early"}  # of a cell: key of a row
Row = Mapping[str, Any]


def by_cell(rows: Sequence[Row], column: str = "tuned") -> dict[tuple[str, str], np.ndarray]:
    """(loss, variant) -> returns per lineage."""
    return {(row["loss"], row["variant"]): np.asarray(row[COLUMNS[column]]) for row in rows}


EXPECTED = (  # a better than b, as the literature has it, on every variant
    ("dpop", "dpo"), ("dpo_budget", "dpo"), ("simpo_budget", "simpo"), ("robust_budget", "robust"),
    ("dpo_select_30", "dpo"), ("dpo_select_40", "dpo"), ("dpo_select_50", "dpo"), ("dpo_select_40", "dpo_random_40"),
    ("dpo_select_40", "dpo_bottom_40"), ("dpo_difficulty", "dpo"), ("dpo", "sft"), ("kto", "sft"), ("kto", "dpo"),
    ("orpo", "dpo"), ("cpo", "dpo"), ("slic_hf", "dpo"), ("discopop", "dpo"),
)  # fmt: skip
EXPECTED_UNDER_NOISE = (("cdpo", "dpo"), ("robust", "dpo"))


def orderings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Orderings between methods that the literature expects, each with its paired difference and a verdict (Holm over all)."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    asked = []
    for variant in variants:
        noise = EXPECTED_UNDER_NOISE if variant.startswith("noisy") else ()
        asked += [
            ((a, variant), (b, variant), f"{a} better than {b} on {variant}") for a, b in (*EXPECTED, *noise)
        ]
    return _compared(rows, asked)


def costs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return on base less return on every other variant, by method, with a verdict (Holm over all)."""
    variants = dict.fromkeys(row["variant"] for row in rows if row["variant"] != "base")
    losses = dict.fromkeys(row["loss"] for row in rows)
    asked = [
        ((loss, "base"), (loss, variant), f"{loss}: better on base than on {variant}")
        for variant in variants
        for loss in losses
    ]
    return _compared(rows, asked)


def _compared(
    rows: Sequence[Row], asked: Sequence[tuple[tuple[str, str], tuple[str, str], str]]
) -> list[dict[str, Any]]:
    cells = by_cell(rows)
    found = [
        {"claim": claim, "better": list(a), "worse": list(b), **paired(cells[a], cells[b])}
        for a, b, claim in asked
        if a in cells and b in cells
    ]
    return with_verdicts(found)


def ranking(rows: Sequence[Row], variant: str) -> list[str]:
    """Methods of a variant, best first."""
    own = [row for row in rows if row["variant"] == variant]
    return [row["loss"] for row in sorted(own, key=lambda row: (-row["mean"], row["loss"]))]


def orderings_markdown(result: Mapping[str, Any]) -> str:
    """The orderings between methods: difference of returns and verdict, a column per variant."""
    rows = result["orderings"]
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
    rows = result["costs"]
    variants = list(dict.fromkeys(row["worse"][1] for row in rows))
    found = {(row["worse"][0], row["worse"][1]): row for row in rows}
    lines = [f"| method | {' | '.join(variants)} |", "|---" * (len(variants) + 1) + "|"]
    for loss in dict.fromkeys(row["worse"][0] for row in rows):
        lines.append(f"| {loss} | {' | '.join(_verdict_cell(found.get((loss, v))) for v in variants)} |")
    return "\n".join(lines) + "\n"


def lengths_markdown(result: Mapping[str, Any]) -> str:
    """Three ways to stop, by method: mean return over lineages and variants at the tuned, early and full length."""
    lines = ["| method | tuned updates | tuned | early stopping | its updates | full |", "|---" * 6 + "|"]
    for loss in dict.fromkeys(row["loss"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["loss"] == loss]
        means = {name: np.mean([row[key] for row in own]) for name, key in COLUMNS.items()}
        stops = np.mean([row["early_updates"] for row in own])
        lines.append(
            f"| {loss} | {own[0]['updates']} | {means['tuned']:.0f} | {means['early']:.0f} | {stops:.0f} | {means['full']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def lineages_markdown(result: Mapping[str, Any]) -> str:
    """Returns of the agents of each lineage (mean and standard error over episodes)."""
    lines = ["| lineage | reference | expert |", "|---|---|---|"]
    for row in result["lineages"]:
        cells = [
            f"{row[name]['return']:.0f} ± {row[name]['standard_error']:.0f}"
            for name in ("reference", "expert")
        ]
        lines.append(f"| {row['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _verdict_cell(row: Row | None) -> str:
    return "" if row is None else f"{row['difference']:+.0f} ± {row['half_width']:.0f}, {row['verdict']}"


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
    """Hyperparameters and length that tuning chose, its score, and what lies at an edge of its grid."""
    lines = ["| method | hyperparameters | updates | score in tuning | at an edge |", "|---" * 5 + "|"]
    for loss in dict.fromkeys(row["loss"] for row in result["rows"]):
        found = tuned["losses"][loss]
        hyper = ", ".join(f"{key.split('.')[-1]} {value:g}" for key, value in found["hyper"].items())
        edges = ", ".join(key.split(".")[-1] for key in found["at_edge_of_grid"])
        lines.append(f"| {loss} | {hyper} | {found['updates']} | {found['score']:.2f} | {edges} |")
    return "\n".join(lines) + "\n"


def markdown(result: Mapping[str, Any]) -> str:
    """The table methods x variants: mean over lineages and half width of its 95% t interval; the best of a column in bold."""
    rows = result["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    best = {variant: ranking(rows, variant)[0] for variant in variants}
    cells = {(row["loss"], row["variant"]): row for row in rows}
    lines = ["| method | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    for loss in dict.fromkeys(row["loss"] for row in rows):
        texts = []
        for variant in variants:
            row = cells.get((loss, variant))
            text = "" if row is None else f"{row['mean']:.0f} ± {row['half_width']:.0f}"
            texts.append(f"**{text}**" if best[variant] == loss else text)
        lines.append(f"| {loss} | " + " | ".join(texts) + " |")
    for name, figure in agents_of(result).items():
        text = f"{figure['mean']:.0f} ± {figure['half_width']:.0f}"
        lines.append(f"| *{name}* | {text} |" + " |" * (len(variants) - 1))
    return "\n".join(lines) + "\n"


def agents_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean and interval over lineages of reference and expert."""
    return {
        name: interval([row[name]["return"] for row in result["lineages"]])
        for name in ("reference", "expert")
    }
