"""One method on one variant, looked at over the course of training: `prefopt suite train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.suite.bench.runs import make_member, material, returns_of, snapshots_of, train_members
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.inner.methods import find_method
from prefopt.suite.inner.training import HISTORY
from prefopt.suite.store import finish, finished, folder_of, save_arrays
from prefopt.tables.records import write_json


def train_single(
    config: BenchConfig,
    method: str,
    variant: str,
    hyper: Mapping[str, float],
    root: Path,
    *,
    threads: int | None = None,
) -> tuple[dict[str, Any], Path]:
    """Trains in every reporting lineage, evaluates every snapshot; writes policies and `curve.json`; gives the curve and its folder.

    Raises:
        PrefoptError: unknown method, variant or hyperparameter.
    """
    settings = config.model_dump(mode="json", include={"agents", "bank", "inner", "rows", "episodes", "mode"})
    settings["lineages"] = list(config.reporting())
    found = find_method(method)
    folder = folder_of(root, f"train-{method}", settings, method, variant, dict(hyper))
    if (done := finished(folder)) is not None:
        return done, folder
    snapshots, updates = config.inner.snapshots, config.inner.updates
    returns, histories, references = [], [], []
    for seed in config.reporting():
        given = material(config, root, lineage=seed, threads=threads)
        trained = train_members(given, [make_member(given, found, hyper, variant, 0)])
        places = [(0, s) for s in range(snapshots)]
        found_returns = returns_of(given, snapshots_of(trained, places), config.episodes, [0] * snapshots)
        returns.append(found_returns.mean(axis=1))
        histories.append(trained.history[0].reshape(snapshots, updates // snapshots, -1).mean(axis=1))
        references.append(given.found.figures["reference"]["return"])
        policy = {name: np.array(x[0]) for name, x in trained.final().items()}
        save_arrays(folder / f"policy-{seed}.safetensors", policy)
    history = np.stack(histories)
    curve: dict[str, Any] = {
        "env": config.agents.environment,
        "method": method,
        "variant": variant,
        "hyper": dict(hyper),
        "updates": [(k + 1) * updates // snapshots for k in range(snapshots)],
        "lineages": list(config.reporting()),
        "reference_return": float(np.mean(references)),
        "returns": np.stack(returns).tolist(),
        **{name: history[:, :, k].tolist() for k, name in enumerate(HISTORY)},
    }
    write_json(folder / "curve.json", curve)
    finish(folder, curve)
    return curve, folder
