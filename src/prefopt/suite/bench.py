"""The table methods x variants with standard errors: cells on disk as they end, rows, Markdown, orderings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.records import write_json
from prefopt.suite.bank import Bank
from prefopt.suite.bars import bar
from prefopt.suite.data import Pairs, figures, make_pairs, parse_variant
from prefopt.suite.methods import find_method, prepare
from prefopt.suite.runs import Material, make_member, material, run_members
from prefopt.suite.settings import BenchConfig
from prefopt.suite.store import folder_of, read_json
from prefopt.suite.tune import suite_versions

Tuned = Mapping[str, Mapping[str, float]]
CLEAR = 2.0  # standard errors of a paired difference from which on an ordering counts as seen


def bench(config: BenchConfig, tuned: Tuned, root: Path, *, workers: int = 1) -> dict[str, Any]:
    """Runs every cell that is not on disk yet and gives the whole result.

    Raises:
        PrefoptError: unknown method or variant, or too few start states.
    """
    cells = [(method, variant) for method in config.methods for variant in config.variants]
    for method, variant in cells:
        find_method(method)
        parse_variant(variant)
    given = material(config, root, threads=workers)
    shared = config.model_dump(
        mode="json", include={"agents", "bank", "inner", "rows", "seeds", "episodes", "mode"}
    )

    def one(cell: tuple[str, str]) -> dict[str, Any]:
        method, variant = cell
        hyper = dict(tuned[method])
        what = find_method(method).identity()
        path = folder_of(root, f"cell-{method}", shared, hyper, what, variant) / "row.json"
        row = read_json(path)
        if row is None:
            row = run_cell(given, method, hyper, variant)
            write_json(path, row)
        return row

    rows = []
    with bar("bench", len(cells)) as advance, ThreadPoolExecutor(workers) as pool:
        for row in pool.map(one, cells):
            rows.append(row)
            advance(1, value=row["mean"])
    return {
        "settings": config.model_dump(mode="json", exclude={"methods", "variants"}),
        "agents": given.found.figures,
        "versions": suite_versions(),
        "rows": rows,
        "orderings": orderings(rows),
    }


def run_cell(given: Material, method: str, hyper: Mapping[str, float], variant: str) -> dict[str, Any]:
    """All seeds of one method on one variant: returns (means over episodes) per seed, and what the data really were."""
    config = given.config
    seeds = range(config.seeds)
    members = [make_member(given, find_method(method), hyper, variant, seed) for seed in seeds]
    trained, returns = run_members(given, members, config.episodes)
    parsed = parse_variant(variant)
    drawn = [make_pairs(given.bank, parsed, config.rows, seed) for seed in seeds]
    kept = [prepare(find_method(method), given.bank, pairs, k)[0] for k, pairs in enumerate(drawn)]
    last = trained.history[:, -max(1, config.inner.updates // 20) :].mean(axis=1)
    return {
        "env": config.agents.environment,
        "integrator": config.agents.integrator,
        "mode": config.mode,
        "variant": variant,
        "loss": method,
        "hyper": dict(hyper),
        **summarise(returns.mean(axis=1)),
        "rows_trained": [len(member.winner) for member in members],
        "data": _mean_figures(given.bank, drawn),
        "data_trained": _mean_figures(given.bank, kept),
        "train_accuracy": last[:, 1].tolist(),
        "chosen_reward": last[:, 2].tolist(),
    }


def _mean_figures(bank: Bank, tables: Sequence[Pairs]) -> dict[str, float]:
    """What the rows really are, averaged over the seeds."""
    each = [figures(bank, pairs) for pairs in tables]
    return {name: float(np.mean([f[name] for f in each])) for name in each[0]}


def summarise(returns: np.ndarray) -> dict[str, Any]:
    """returns per seed, their mean and its standard error."""
    error = float(np.std(returns, ddof=1) / math.sqrt(len(returns)))
    return {"returns": returns.tolist(), "mean": float(np.mean(returns)), "standard_error": error}


# ---- reading the rows


def by_cell(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], np.ndarray]:
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


def orderings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Orderings that the literature expects, each with the paired difference and its verdict; only cells that exist."""
    cells = by_cell(rows)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    pairs: list[tuple[str, tuple[str, str], tuple[str, str]]] = []
    for variant in variants:
        if variant != "base":
            pairs += [
                (f"{loss}: better on base than on {variant}", (loss, "base"), (loss, variant))
                for loss in losses
            ]
        expected = [("dpo_budget", "dpo"), ("dpop", "dpo"), ("dpo_select_40", "dpo"), ("dpo_select_40", "dpo_random_40"),
                    ("dpo_difficulty", "dpo"), ("dpo", "sft")]  # fmt: skip
        if variant.startswith("noisy"):
            expected += [("cdpo", "dpo"), ("robust", "dpo")]
        pairs += [(f"{a} better than {b} on {variant}", (a, variant), (b, variant)) for a, b in expected]
    out = []
    for claim, a, b in pairs:
        if a in cells and b in cells and len(cells[a]) == len(cells[b]):
            difference, error = compare(cells[a], cells[b])
            out.append({
                "claim": claim, "difference": difference, "standard_error": error, "verdict": verdict(difference, error),
            })  # fmt: skip
    return out


def ranking(rows: Sequence[Mapping[str, Any]], variant: str) -> list[str]:
    """Methods of a variant, best first."""
    own = [row for row in rows if row["variant"] == variant]
    return [row["loss"] for row in sorted(own, key=lambda row: (-row["mean"], row["loss"]))]


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
