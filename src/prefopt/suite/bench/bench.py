"""The table methods x variants over lineages: cells on disk as they end, so that a killed bench continues.

A cell is a method on a variant in one lineage: one training whose snapshots give three columns, the tuned length, the full
length, and the length at which the held-out loss is lowest (early stopping).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.bars import bar
from prefopt.suite.bench.runs import (
    Material,
    lineage_figures,
    make_member,
    material,
    returns_of,
    signals_of,
    snapshots_of,
    train_members,
)
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.bench.statistics import interval
from prefopt.suite.bench.tables import COLUMNS, costs, orderings
from prefopt.suite.data.variants import figures, make_pairs, parse_variant
from prefopt.suite.inner.methods import find_method, prepare
from prefopt.suite.store import folder_of, read_json, suite_versions
from prefopt.tables.records import write_json

Tuned = Mapping[str, Mapping[str, Any]]
LAST = 20  # training figures of a cell are means over the last 1 / LAST of its updates


def bench(config: BenchConfig, tuned: Tuned, root: Path, *, workers: int = 1) -> dict[str, Any]:
    """Runs every cell that is not on disk yet and gives the whole result.

    tuned: {hyper, updates} by method.

    Raises:
        PrefoptError: unknown method or variant, too few start states, or a tuned length that no snapshot has.
    """
    for method in config.methods:
        find_method(method)
        tuned_snapshot(config, tuned[method]["updates"], method)
    for variant in config.variants:
        parse_variant(variant)
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {
        (method, variant): [] for method in config.methods for variant in config.variants
    }
    seen = []
    jobs = len(config.methods) * len(config.reporting())
    with bar("bench", jobs) as advance, ThreadPoolExecutor(workers) as pool:
        for seed in config.reporting():
            given = material(config, root, lineage=seed, threads=workers)
            seen.append(lineage_figures(given))

            def one(method: str, given: Material = given) -> list[dict[str, Any]]:
                rows = _cells(given, method, tuned[method], root)
                advance(1, value=rows[0]["tuned"])
                return rows

            for method, rows in zip(config.methods, pool.map(one, config.methods), strict=True):
                for variant, row in zip(config.variants, rows, strict=True):
                    cells[method, variant].append(row)
    rows = [_row(config, method, variant, tuned[method], found) for (method, variant), found in cells.items()]
    return {
        "settings": config.model_dump(mode="json", exclude={"methods", "variants"}),
        "lineages": seen,
        "versions": suite_versions(),
        "rows": rows,
        "orderings": orderings(rows),
        "costs": costs(rows),
    }


def tuned_snapshot(config: BenchConfig, updates: int, method: str) -> int:
    """Index of the snapshot after `updates`. Raises PrefoptError where the settings keep none there."""
    count, every = config.inner.snapshots, config.inner.updates // config.inner.snapshots
    if updates % every or not 0 < updates <= every * count:
        raise PrefoptError(
            f"suite bench: {method} was tuned to {updates} updates, but a snapshot is kept every {every}; set inner.snapshots"
        )
    return updates // every - 1


def _cells(given: Material, method: str, tuned: Mapping[str, Any], root: Path) -> list[dict[str, Any]]:
    """The method's cells in a lineage, one per variant; those that are not on disk are run together."""
    config = given.config
    shared = config.model_dump(
        mode="json",
        include={"agents", "bank", "inner", "rows", "seeds", "episodes", "other_episodes", "mode"},
    )
    what = (find_method(method).identity(), dict(tuned["hyper"]), tuned["updates"], given.found.identity())
    paths = [folder_of(root, f"cell-{method}", shared, *what, v) / "row.json" for v in config.variants]
    missing = [k for k, path in enumerate(paths) if read_json(path) is None]
    if missing:
        found = run_cells(given, method, tuned, [config.variants[k] for k in missing])
        for k, row in zip(missing, found, strict=True):
            write_json(paths[k], row)
    return [read_json(path) for path in paths]


def run_cells(
    given: Material, method: str, tuned: Mapping[str, Any], variants: Sequence[str]
) -> list[dict[str, Any]]:
    """Trains and evaluates a method on the variants: mean returns of the three columns, and what the data really were."""
    config = given.config
    asked = [(variant, seed) for variant in variants for seed in range(config.seeds)]
    members = [make_member(given, find_method(method), tuned["hyper"], v, seed) for v, seed in asked]
    trained = train_members(given, members)
    signals = signals_of(given, trained, members, [v for v, _ in asked])
    at = tuned_snapshot(config, tuned["updates"], method)
    early, full = [signal.stop() for signal in signals], config.inner.snapshots - 1
    seeds = [seed for _, seed in asked]
    best = returns_of(
        given, snapshots_of(trained, [(k, at) for k in range(len(asked))]), config.episodes, seeds
    )
    value = {(k, at): float(best[k].mean()) for k in range(len(asked))}
    others = sorted({(k, s) for k in range(len(asked)) for s in (early[k], full)} - set(value))
    if others:
        own = [seeds[k] for k, _ in others]
        more = returns_of(given, snapshots_of(trained, others), config.other_episodes, own).mean(axis=1)
        value |= dict(zip(others, more.tolist(), strict=True))
    last = trained.history[:, -max(1, config.inner.updates // LAST) :].mean(axis=1)
    rows = []
    for variant in variants:
        own_k = [k for k, (v, _) in enumerate(asked) if v == variant]
        columns = {
            "tuned": dict.fromkeys(own_k, at),
            "full": dict.fromkeys(own_k, full),
            "early": {k: early[k] for k in own_k},
        }
        rows.append({
            **{name: float(np.mean([value[k, s] for k, s in c.items()])) for name, c in columns.items()},
            "early_updates": float(np.mean([(early[k] + 1) * config.inner.updates // (full + 1) for k in own_k])),
            "rows_trained": len(members[own_k[0]].winner),
            **_data(given, method, variant),
            "train_accuracy": float(last[own_k, 1].mean()),
            "chosen_reward": float(last[own_k, 2].mean()),
        })  # fmt: skip
    return rows


def _data(given: Material, method: str, variant: str) -> dict[str, dict[str, float]]:
    """What the rows really are, before and after the method's choice of them, averaged over the seeds."""
    out: dict[str, list[dict[str, Any]]] = {"data": [], "data_trained": []}
    for seed in range(given.config.seeds):
        pairs = make_pairs(given.bank, parse_variant(variant), given.config.rows, seed)
        out["data"].append(figures(given.bank, pairs))
        out["data_trained"].append(
            figures(given.bank, prepare(find_method(method), given.bank, pairs, seed)[0])
        )
    return {name: _mean(each) for name, each in out.items()}


def _mean(each: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([f[name] for f in each])) for name in each[0]}


def _row(
    config: BenchConfig,
    method: str,
    variant: str,
    tuned: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A row of the result: `returns` (tuned length), `returns_full`, `returns_early`, a value per lineage."""
    columns = {key: [row[name] for row in found] for name, key in COLUMNS.items()}
    return {
        "env": config.agents.environment,
        "integrator": config.agents.integrator,
        "mode": config.mode,
        "variant": variant,
        "loss": method,
        "hyper": dict(tuned["hyper"]),
        "updates": tuned["updates"],
        **columns,
        **interval(columns["returns"]),
        "early_updates": [row["early_updates"] for row in found],
        "rows_trained": [row["rows_trained"] for row in found],
        "data": _mean([row["data"] for row in found]),
        "data_trained": _mean([row["data_trained"] for row in found]),
        "train_accuracy": [row["train_accuracy"] for row in found],
        "chosen_reward": [row["chosen_reward"] for row in found],
    }
