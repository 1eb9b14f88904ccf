"""One method on one variant, looked at over the course of training: `prefopt suite train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.suite.bench.runs import make_member, material, returns_of, train_population
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.inner.methods import find_method
from prefopt.suite.inner.training import HISTORY
from prefopt.suite.simulator.policy import unstack
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
    """Trains all seeds, evaluates every snapshot; writes policies and `curve.json`; gives the curve and its folder.

    Raises:
        PrefoptError: unknown method, variant or hyperparameter.
    """
    settings = config.model_dump(
        mode="json", include={"agents", "bank", "inner", "rows", "seeds", "episodes", "mode"}
    )
    found = find_method(method)
    folder = folder_of(root, f"train-{method}", settings, method, variant, dict(hyper))
    if (done := finished(folder)) is not None:
        return done, folder
    given = material(config, root, threads=threads)
    members = [make_member(given, found, hyper, variant, seed) for seed in range(config.seeds)]
    trained = train_population(given.bank, given.found.reference, members, config.inner)
    snapshots, updates = config.inner.snapshots, config.inner.updates
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in trained.policies.items()}
    seeds = [member.seed for member in members for _ in range(snapshots)]
    returns = returns_of(given, flat, config.episodes, seeds).mean(axis=1).reshape(len(members), snapshots)
    history = trained.history.reshape(len(members), snapshots, updates // snapshots, -1).mean(axis=2)
    curve: dict[str, Any] = {
        "env": config.agents.environment,
        "method": method,
        "variant": variant,
        "hyper": dict(hyper),
        "updates": [(k + 1) * updates // snapshots for k in range(snapshots)],
        "reference_return": given.found.figures["reference"]["return"],
        "returns": returns.tolist(),
        **{name: history[:, :, k].tolist() for k, name in enumerate(HISTORY)},
    }
    for seed, policy in enumerate(unstack(trained.final())):
        save_arrays(folder / f"policy-{seed}.safetensors", {k: np.array(x) for k, x in policy.items()})
    write_json(folder / "curve.json", curve)
    finish(folder, curve)
    return curve, folder
