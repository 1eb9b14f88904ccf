"""Hyperparameters by an equal budget per loss, on seeds that the bench does not use.

Every loss tries the same number of candidates on the same rows; a candidate's score is its mean return over the tuning
variants. The result is a JSON file; the one shipped with the package is `tuned.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.bars import bar
from prefopt.suite.bench.runs import TUNING_SEED, Material, make_member, material, run_members
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.inner.methods import METHODS, Method, find_method
from prefopt.suite.store import folder_of, read_json
from prefopt.tables.records import digest, write_json
from prefopt.tables.versions import versions

SHIPPED = Path(__file__).parent / "tuned.json"
CHUNK = 5  # candidates scored together and then written


def tuned_names(methods: Sequence[str]) -> list[str]:
    """The known methods among these, in the table's order. Raises PrefoptError for an unknown one."""
    wanted = {find_method(name).name for name in methods}
    return [name for name in METHODS if name in wanted]


def tune(config: BenchConfig, root: Path, *, workers: int = 1) -> dict[str, Any]:
    """Tunes every loss of the settings; each one's result is kept as soon as it is there.

    Raises:
        PrefoptError: losses with different numbers of candidates (the budget would not be equal).
    """
    names = tuned_names(config.methods)
    counts = {name: len(METHODS[name].candidates()) for name in names}
    if len(set(counts.values())) != 1:
        raise PrefoptError(
            f"suite tune: candidates per loss differ, {counts}; give every loss the same number"
        )
    given = material(config, root, threads=workers)
    settings = config.model_dump(mode="json", exclude={"methods", "variants", "seeds", "episodes"})
    folder = folder_of(root, f"tune-{config.agents.environment}", settings)

    def one(name: str) -> dict[str, Any]:
        method = METHODS[name]
        return tune_loss(given, method, folder / f"{name}-{digest(method.identity())[:8]}.json")

    with bar("tune", len(names)) as advance, ThreadPoolExecutor(workers) as pool:
        results = {}
        for name, found in zip(names, pool.map(one, names), strict=True):
            results[name] = found
            advance(1, value=found["score"])
    return {
        "environment": config.agents.environment,
        "settings": settings,
        "seeds": [TUNING_SEED + k for k in range(config.tuning_seeds + config.tuning_final_seeds)],
        "candidates_per_loss": next(iter(counts.values())),
        "versions": suite_versions(),
        "losses": results,
    }


def tune_loss(given: Material, method: Method, kept: Path) -> dict[str, Any]:
    """Every candidate on every tuning variant, then the finalists on fresh tuning seeds: the best one, and all scores.

    With as many candidates the best of a single seed is often the luckiest; a finalist's score is its mean over all seeds.
    kept: file of what has been scored; a killed or widened tuning runs only what is missing.
    """
    config, candidates = given.config, method.candidates()
    first = [TUNING_SEED + k for k in range(config.tuning_seeds)]
    fresh = [first[-1] + 1 + k for k in range(config.tuning_final_seeds)]
    rows = _scored(given, method, kept, ("candidates", candidates, first))
    order = np.argsort([-row["score"] for row in rows], kind="stable")[: config.tuning_finalists]
    finals = _scored(given, method, kept, ("finals", [candidates[k] for k in order], fresh))
    share = len(first) / (len(first) + len(fresh))
    total = [share * rows[k]["score"] + (1 - share) * f["score"] for k, f in zip(order, finals, strict=True)]
    best = int(order[int(np.argmax(total))])
    return {
        "hyper": candidates[best],
        "score": max(total),
        "at_edge_of_grid": _edges(candidates, best),
        "finals": [{**f, "all_seeds": t} for f, t in zip(finals, total, strict=True)],
        "candidates": rows,
    }


def _scored(
    given: Material,
    method: Method,
    kept: Path,
    what: tuple[str, Sequence[Mapping[str, float]], Sequence[int]],
) -> list[dict[str, Any]]:
    """Scores of (name in the file, candidates, seeds), those that the file lacks run and written by CHUNKs."""
    name, candidates, seeds = what
    body: dict[str, Any] = read_json(kept) or {}
    missing = [hyper for hyper in candidates if all(c["hyper"] != hyper for c in body.get(name, []))]
    for begin in range(0, len(missing), CHUNK):
        found = score(given, method, missing[begin : begin + CHUNK], seeds)
        body = {**body, name: [*body.get(name, []), *found]}
        write_json(kept, body)
    return [next(c for c in body.get(name, []) if c["hyper"] == hyper) for hyper in candidates]


def score(
    given: Material, method: Method, candidates: Sequence[Mapping[str, float]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Candidates with their mean return over the tuning variants and seeds, and by variant."""
    config = given.config
    cells = [(v, seed) for v in config.tuning_variants for seed in seeds]
    members = [make_member(given, method, hyper, v, seed) for hyper in candidates for v, seed in cells]
    _, returns = run_members(given, members, config.tuning_episodes)
    mean = np.nan_to_num(returns.mean(axis=1), nan=-np.inf)
    by_cell = mean.reshape(len(candidates), len(config.tuning_variants), len(seeds)).mean(axis=2)
    return [
        {
            "hyper": dict(hyper),
            "score": float(row.mean()),
            "by_variant": dict(zip(config.tuning_variants, row.tolist(), strict=True)),
        }
        for hyper, row in zip(candidates, by_cell, strict=True)
    ]


def _edges(candidates: list[dict[str, float]], best: int) -> list[str]:
    """Hyperparameters whose best value is the smallest or largest tried: a wider grid might do better."""
    out = []
    for name, value in candidates[best].items():
        tried = sorted({c[name] for c in candidates})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            out.append(name)
    return out


def suite_versions() -> dict[str, str]:
    """Versions of what decides results here."""
    from importlib import metadata

    return {
        **{k: v for k, v in versions().items() if k in ("prefopt", "python", "numpy")},
        **{name: metadata.version(name) for name in ("jax", "optax", "mujoco")},
    }


def write_tuned(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results of `tune`; those of other environments in the file stay. One environment's result stands alone."""
    known = read_json(path) or {}
    by_environment = {known["environment"]: known} if "environment" in known else known
    by_environment = by_environment | {result["environment"]: result for result in results}
    write_json(path, results[0] if len(by_environment) == 1 else by_environment)


def load_tuned(path: Path, environment: str, methods: Sequence[str]) -> dict[str, dict[str, float]]:
    """Hyperparameters by method from the result of `tune` ({environment: result} or one result).

    Raises:
        PrefoptError: no such file, another environment, or a loss is missing in it.
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
    return {name: found["losses"][name]["hyper"] for name in methods}
