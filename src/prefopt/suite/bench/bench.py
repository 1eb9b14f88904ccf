"""The table methods x variants with standard errors: cells on disk as they end, so that a killed bench continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.suite.bars import bar
from prefopt.suite.bench.runs import Material, make_member, material, run_members
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.bench.tables import orderings, summarise
from prefopt.suite.bench.tune import suite_versions
from prefopt.suite.data.bank import Bank
from prefopt.suite.data.variants import Pairs, figures, make_pairs, parse_variant
from prefopt.suite.inner.methods import find_method, prepare
from prefopt.suite.store import folder_of, read_json
from prefopt.tables.records import write_json

Tuned = Mapping[str, Mapping[str, float]]


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
