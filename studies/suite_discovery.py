"""Re-test of discovered losses on the reporting lineages, paired against tuned DPO and tuned ORPO.

    python studies/suite_discovery.py --json studies/results/discovery.json [--output runs/suite] [LOSS.json ...]

For every loss (default: those in losses/discovered) and every data variant that it was found on, each reporting lineage trains
three policies from its reference on the same rows: by the discovered loss with the learning rate and length that its search
found, by DPO and by ORPO as tuned. Their returns go into the file with z, the mean paired difference in standard errors over
lineages, and Holm's p over the file. Cells are kept below --output: a killed study continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.losses.discovered import FOLDER
from prefopt.losses.mirror_file import load_mirror
from prefopt.suite.bench.runs import Material, lineage_figures, material, returns_of, train_members
from prefopt.suite.bench.settings import BenchConfig, bench_config
from prefopt.suite.bench.statistics import interval, paired, with_verdicts
from prefopt.suite.bench.tune import SHIPPED, load_tuned
from prefopt.suite.data.variants import make_pairs, parse_variant
from prefopt.suite.inner.methods import find_method
from prefopt.suite.inner.training import Member
from prefopt.suite.store import folder_of, read_json, suite_versions
from prefopt.tables.records import write_json

BASELINES = ("dpo", "orpo")


def main() -> None:
    """Runs what is missing and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("losses", nargs="*", type=Path, help="exported losses")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/suite"))
    parser.add_argument("--tuned", type=Path, default=SHIPPED)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    config = bench_config("small", {"inner": {"snapshots": 1}, "episodes": options.episodes})
    files = options.losses or sorted(FOLDER.glob("*.json"))
    tuned = load_tuned(options.tuned, config.agents.environment, BASELINES)
    write_json(options.json, study(config, files, tuned, options.output, options.threads))


def study(
    config: BenchConfig, files: list[Path], tuned: dict[str, dict[str, Any]], root: Path, threads: int
) -> dict[str, Any]:
    """The whole result; lineages one after the other, so that one bank is in memory."""
    found = {path: load_mirror(path) for path in files}
    cells = [(path, variant) for path, loss in found.items() for variant in loss["provenance"]["variants"]]
    returns: dict[tuple[Path, str], list[dict[str, float]]] = {cell: [] for cell in cells}
    seen = []
    for seed in config.reporting():
        given = material(config, root, lineage=seed, threads=threads)
        seen.append(lineage_figures(given))
        for path, variant in cells:
            arms = {
                "found": _found_arm(path, found[path]),
                **{name: _tuned_arm(name, tuned[name]) for name in BASELINES},
            }
            returns[path, variant].append({n: _cell(given, arm, variant, root) for n, arm in arms.items()})
    rows = [_row(config, path, found[path], variant, returns[path, variant]) for path, variant in cells]
    return {"settings": config.model_dump(mode="json"), "lineages": seen, "versions": suite_versions(), "variants": rows,
            "statements": _statements(rows)}  # fmt: skip


def _found_arm(path: Path, loss: dict[str, Any]) -> dict[str, Any]:
    told = loss["provenance"]
    return {
        "loss": {"name": "mirror", "file": str(path)},
        "sha256": loss["sha256"],
        "learning_rate": told["learning_rate"],
        "updates": told["updates"],
    }


def _tuned_arm(name: str, tuned: dict[str, Any]) -> dict[str, Any]:
    terms = find_method(name).terms(tuned["hyper"])
    return {"loss": terms, "learning_rate": tuned["hyper"]["learning_rate"], "updates": tuned["updates"]}


def _cell(given: Material, arm: dict[str, Any], variant: str, root: Path) -> float:
    """Mean return of the arm's policy on a variant in a lineage, from the cache or trained now."""
    config = given.config
    identity = {key: value for key, value in arm.items() if key != "loss"}
    identity["loss"] = arm.get("sha256") or arm["loss"]
    settings = config.model_dump(mode="json", include={"agents", "bank", "inner", "rows", "episodes", "mode"})
    path = folder_of(root, "retest", settings, identity, variant, given.found.identity()) / "row.json"
    row = read_json(path)
    if row is None:
        pairs = make_pairs(given.bank, parse_variant(variant), config.rows, 0)
        ones = np.ones(len(pairs.winner))
        member = Member(
            arm["loss"], arm["learning_rate"], pairs.winner, pairs.loser, ones, 0, stop=arm["updates"]
        )
        policy = train_members(given, [member]).final()
        row = {"return": float(returns_of(given, policy, config.episodes, [0]).mean())}
        write_json(path, row)
    return float(row["return"])


def _row(
    config: BenchConfig, path: Path, loss: dict[str, Any], variant: str, cells: list[dict[str, float]]
) -> dict[str, Any]:
    """What the file says of a loss on a variant."""
    columns = {name: [cell[name] for cell in cells] for name in ("found", *BASELINES)}
    return {
        "env": config.agents.environment,
        "variant": variant,
        "loss_file": path.name,
        "loss_sha256": loss["sha256"],
        "found_on": loss["provenance"]["variants"],
        "episodes": config.episodes,
        "returns": columns["found"],
        **interval(columns["found"]),
        **{f"returns_{name}": columns[name] for name in BASELINES},
        **{f"z_vs_{name}": paired(columns["found"], columns[name])["z"] for name in BASELINES},
    }


def _statements(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Found better than each baseline, with verdicts (Holm over all)."""
    return with_verdicts([
        {"claim": f"{row['loss_file']} better than {name} on {row['variant']}",
         **paired(row["returns"], row[f"returns_{name}"])}
        for row in rows for name in BASELINES
    ])  # fmt: skip


if __name__ == "__main__":
    main()
