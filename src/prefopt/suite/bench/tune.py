"""Hyperparameters and length of training by an equal budget per method, on lineages that nothing else uses.

Every method tries the same number of points of its grid on the first tuning lineage; the best go on to the others. A
training keeps snapshots, and each is a candidate for the length: when to stop is tuned with everything else. A score is
the mean over tuning variants and lineages of (return - reference) / (expert - reference). The packaged result is `tuned.json`.
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
    TUNING_SEED,
    Material,
    make_member,
    material,
    returns_of,
    share,
    signals_of,
    snapshots_of,
    train_members,
)
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.inner.methods import METHODS, Method, find_method
from prefopt.suite.store import folder_of, read_json, suite_versions
from prefopt.tables.records import digest, write_json

SHIPPED = Path(__file__).parent / "tuned.json"
Hyper = Mapping[str, float]


def tuned_names(methods: Sequence[str]) -> list[str]:
    """The known methods among these, in the table's order. Raises PrefoptError for an unknown one."""
    wanted = {find_method(name).name for name in methods}
    return [name for name in METHODS if name in wanted]


def tune(config: BenchConfig, root: Path, *, workers: int = 1) -> dict[str, Any]:
    """Tunes every method of the settings; what has been scored is kept, candidate by candidate and lineage by lineage.

    Raises:
        PrefoptError: fewer than two tuning lineages, or a method with fewer candidates than the budget.
    """
    names, seeds = tuned_names(config.methods), config.tuning()
    if len(seeds) < 2:
        raise PrefoptError("suite tune: give at least two tuning_lineages; finalists need fresh ones")
    tried = {name: drawn_candidates(METHODS[name], config.tuning_candidates) for name in names}
    settings = tuning_settings(config)
    folder = folder_of(root, f"tune-{config.agents.environment}", settings)
    kept = {name: folder / f"{name}-{digest(METHODS[name].identity())[:8]}" for name in names}
    rows: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in names}
    with bar("tune", len(names) * len(seeds)) as advance, ThreadPoolExecutor(workers) as pool:
        for seed in seeds:
            given = material(config, root, lineage=seed, threads=workers)

            def one(name: str, given: Material = given, seed: int = seed) -> None:
                first = rows[name].get(seeds[0])
                hypers = tried[name] if first is None else finalists(first, config.tuning_finalists)
                path = kept[name].with_name(f"{kept[name].name}-{seed}.json")
                rows[name][seed] = _scored(given, METHODS[name], path, hypers)
                advance(1, value=max(max(row["score"]) for row in rows[name][seed]))

            list(pool.map(one, names))
    return {
        "environment": config.agents.environment,
        "settings": settings,
        "lineages": list(seeds),
        "candidates_per_loss": config.tuning_candidates,
        "versions": suite_versions(),
        "losses": {name: choose(rows[name], seeds, config) for name in names},
    }


def tuning_settings(config: BenchConfig) -> dict[str, Any]:
    """The settings that a tuning depends on."""
    skipped = {"methods", "variants", "seeds", "episodes", "other_episodes", "lineages", "tuning_lineages"}
    body = config.model_dump(mode="json", exclude=skipped)
    body["agents"].pop("seed")
    body["bank"].pop("seed")
    return {**body, "tuning_lineages": list(config.tuning())}


def drawn_candidates(method: Method, count: int) -> list[dict[str, float]]:
    """`count` points of the method's grid, spread over it by a draw that is the same for every method.

    Raises:
        PrefoptError: the grid has fewer.
    """
    full = method.candidates()
    if count > len(full):
        raise PrefoptError(
            f"suite tune: {method.name} has {len(full)} candidates, not {count}; every method must have the same budget"
        )
    order = np.random.default_rng(TUNING_SEED).permutation(len(full))[:count]
    return [full[k] for k in sorted(order.tolist())]


def _scored(given: Material, method: Method, path: Path, hypers: Sequence[Hyper]) -> list[dict[str, Any]]:
    """The candidates' scores on a lineage; those that the file lacks are run, a candidate at a time, and written."""
    known: list[dict[str, Any]] = read_json(path) or []
    for hyper in hypers:
        if all(row["hyper"] != dict(hyper) for row in known):
            known = [*known, score(given, method, hyper)]
            write_json(path, known)
    return [next(row for row in known if row["hyper"] == dict(hyper)) for hyper in hypers]


def score(given: Material, method: Method, hyper: Hyper) -> dict[str, Any]:
    """A candidate on a lineage: score [S] by snapshot, returns and held-out losses [S] by variant."""
    config, seed = given.config, TUNING_SEED
    members = [make_member(given, method, hyper, variant, seed) for variant in config.tuning_variants]
    trained = train_members(given, members)
    count = config.inner.snapshots
    places = [(k, s) for k in range(len(members)) for s in range(count)]
    episodes, seeds = config.tuning_episodes, [seed] * len(places)
    returns = returns_of(given, snapshots_of(trained, places), episodes, seeds).mean(axis=1)
    by_variant = np.nan_to_num(returns.reshape(len(members), count), nan=-np.inf)
    held = [x.loss.tolist() for x in signals_of(given, trained, members, config.tuning_variants)]
    return {
        "hyper": dict(hyper),
        "score": share(given, by_variant.mean(axis=0)).tolist(),
        "returns": dict(zip(config.tuning_variants, by_variant.tolist(), strict=True)),
        "held_out_loss": dict(zip(config.tuning_variants, held, strict=True)),
    }


def finalists(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, float]]:
    """The candidates with the best score at any length, smoothed over neighbouring lengths."""
    best = [max(_smoothed(row["score"])) for row in rows]
    order = np.argsort([-value for value in best], kind="stable")[:count]
    return [rows[k]["hyper"] for k in order]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours."""
    return [float(np.mean(values[max(0, k - 1) : k + 2])) for k in range(len(values))]


def choose(
    rows: Mapping[int, Sequence[Mapping[str, Any]]], seeds: Sequence[int], config: BenchConfig
) -> dict[str, Any]:
    """The best (finalist, length) by its mean score over all tuning lineages, and what early stopping would have chosen.

    rows: by lineage; the first one's hold all candidates, the others' the finalists.
    """
    last = rows[seeds[-1]]
    by_hyper = {seed: {digest(row["hyper"]): row for row in rows[seed]} for seed in seeds}
    keys = [digest(row["hyper"]) for row in last]
    scores = np.array([[by_hyper[seed][key]["score"] for seed in seeds] for key in keys])  # [F, L, S]
    mean = scores.mean(axis=1)
    best, length = (int(k) for k in np.unravel_index(int(np.argmax(mean)), mean.shape))
    chosen = [by_hyper[seed][keys[best]] for seed in seeds]
    count = mean.shape[1]
    return {
        "hyper": dict(last[best]["hyper"]),
        "snapshot": length,
        "updates": (length + 1) * config.inner.updates // count,
        "score": float(mean[best, length]),
        "score_by_snapshot": mean[best].tolist(),
        "at_edge_of_grid": _edges([row["hyper"] for row in rows[seeds[0]]], last[best]["hyper"]),
        "early_stopping": _early(chosen, length),
        "finals": [
            {"hyper": dict(row["hyper"]), "score_by_snapshot": m.tolist()}
            for row, m in zip(last, mean, strict=True)
        ],
        "candidates": [{"hyper": dict(row["hyper"]), "score": row["score"]} for row in rows[seeds[0]]],
    }


def _early(chosen: Sequence[Mapping[str, Any]], length: int) -> dict[str, float]:
    """Mean returns over lineages and variants: at the tuned length, where the held-out loss is lowest, at the end, at the best."""
    found: dict[str, list[float]] = {"tuned": [], "early": [], "full": [], "best": []}
    for row in chosen:
        for variant, returns in row["returns"].items():
            held = np.asarray(row["held_out_loss"][variant])
            stop = int(np.argmin(np.where(np.isfinite(held), held, np.inf)))
            values = {
                "tuned": returns[length],
                "early": returns[stop],
                "full": returns[-1],
                "best": max(returns),
            }
            for name, value in values.items():
                found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _edges(candidates: Sequence[Hyper], best: Hyper) -> list[str]:
    """Hyperparameters whose best value is the smallest or largest tried: a wider grid might do better."""
    out = []
    for name, value in best.items():
        tried = sorted({c[name] for c in candidates})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            out.append(name)
    return out


def write_tuned(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results of `tune`; what the file has of other environments stays, and of other methods tuned with the same settings.

    One environment's result stands alone.
    """
    known = read_json(path) or {}
    by_environment = {known["environment"]: known} if "environment" in known else known
    for result in results:
        name = result["environment"]
        before = by_environment.get(name, {})
        if before.get("settings") == result["settings"]:
            result = {**result, "losses": _in_order({**before["losses"], **result["losses"]})}
        by_environment = {**by_environment, name: result}
    write_json(path, next(iter(by_environment.values())) if len(by_environment) == 1 else by_environment)


def _in_order(losses: Mapping[str, Any]) -> dict[str, Any]:
    """By the table of methods."""
    return {name: losses[name] for name in METHODS if name in losses}


def load_tuned(path: Path, environment: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{hyper, updates} by method from the result of `tune` ({environment: result} or one result).

    Raises:
        PrefoptError: no such file, another environment, a result of an older form, or a method is missing in it.
    """
    body = read_json(path)
    if not isinstance(body, dict):
        raise PrefoptError(f"{path}: no result of tuning; write one with: prefopt suite tune --write {path}")
    found = body if body.get("environment") == environment else body.get(environment)
    if not isinstance(found, dict) or "losses" not in found:
        raise PrefoptError(
            f"{path}: not tuned on {environment!r}; write one with: prefopt suite tune --write FILE"
        )
    missing = [name for name in tuned_names(methods) if name not in found["losses"]]
    if missing:
        raise PrefoptError(f"{path}: {', '.join(missing)} not tuned; run: prefopt suite tune --write {path}")
    if any("updates" not in row for row in found["losses"].values()):
        raise PrefoptError(f"{path}: tuned without lengths; run again: prefopt suite tune --write {path}")
    return {name: {key: found["losses"][name][key] for key in ("hyper", "updates")} for name in methods}
