"""Which part of a discovered loss makes it good: each one without its parts, on the search lineages and the data it was found on.

    python studies/suite_parts.py --json studies/results/discovery-parts.json [--output runs/suite] [LOSS.json ...]

Arms: the whole loss; without psi; without the contrast (lam 0); with log x in place of psi; with log x in place of phi_inv, both
at the slope of 1 per nat at x = 0.05 that the searched maps have. The lineages are those of the search, so that the reporting
ones stay unseen; rows and labels are none of the search's. Cells are kept below --output: a killed study continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from suite_discovery import Arm, block_returns

from prefopt.losses.discovered import FOLDER
from prefopt.losses.mirror_file import PARTS, load_mirror
from prefopt.suite.agents.lineages import roles
from prefopt.suite.bench.runs import material, share
from prefopt.suite.bench.settings import bench_config
from prefopt.suite.store import suite_versions
from prefopt.tables.records import write_json

ARMS = ("whole", "without psi", "without contrast", "log psi", "log phi_inv")


def main() -> None:
    """Runs what is missing and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("losses", nargs="*", type=Path, help="exported losses")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/suite"))
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    config = bench_config("small", {"inner": {"snapshots": 1}, "episodes": options.episodes})
    found = {path: load_mirror(path) for path in options.losses or sorted(FOLDER.glob("*.json"))}
    cells = [(path, name, variant) for path, loss in found.items()
             for variant in loss["provenance"]["variants"] for name in ARMS]  # fmt: skip
    shares: dict[tuple[Path, str, str], list[float]] = {cell: [] for cell in cells}
    for lineage in roles(config.agents.environment).search:
        given = material(config, options.output, lineage=lineage, threads=options.threads)
        arms = [(variant, changed(found[path], name)) for path, name, variant in cells]
        returns = block_returns(given, arms, options.output, options.threads)
        for cell, value in zip(cells, share(given, np.array(returns)), strict=True):
            shares[cell].append(float(value))
    rows = [{"loss_file": path.name, "variant": variant, "arm": name, "shares": shares[path, name, variant],
             "share": float(np.mean(shares[path, name, variant]))} for path, name, variant in cells]  # fmt: skip
    write_json(
        options.json,
        {"settings": config.model_dump(mode="json"), "versions": suite_versions(), "rows": rows},
    )


def changed(loss: Mapping[str, Any], name: str) -> Arm:
    """The loss as this arm has it, at its own learning rate and length; one structure for all, so compiled once."""
    changes: dict[str, dict[str, Any]] = {
        "whole": {},
        "without psi": {"psi": only_log(loss["psi"], 0.0)},
        "without contrast": {"lam": 0.0},
        "log psi": {"psi": only_log(loss["psi"], 1.0)},
        "log phi_inv": {"phi_inv": only_log(loss["phi_inv"], 1.0)},
    }
    terms = {"name": "mirror", "x": loss["x"], **{part: loss[part] for part in PARTS}, **changes[name]}
    told = loss["provenance"]
    rate, updates = told["learning_rate"], told["updates"]
    return Arm(terms, rate, updates, {"learning_rate": rate, "updates": updates, "loss": terms})


def only_log(part: Mapping[str, Any], slope: float) -> dict[str, Any]:
    """slope * log x, with units that are all 0."""
    units = {key: np.zeros_like(table).tolist() for key, table in part["units"].items()}
    return {**part, "units": units, "a": 0.0, "c": slope, "d": 0.0}


if __name__ == "__main__":
    main()
