"""Re-test of discovered losses on the reporting lineages, paired against tuned DPO and tuned ORPO.

    python studies/suite_discovery.py --json studies/results/discovery.json [--output runs/suite] [LOSS.json ...]
    python studies/suite_discovery.py --json studies/results/transfer.json --variants base,noisy:0.1,small:128

For every loss (default: those in losses/discovered) and every data variant (default: those that it was found on), each reporting
lineage trains one policy per arm from its reference on the same rows: by the discovered loss with the learning rate and length
that its search found, by DPO, by ORPO and by the methods of --also as tuned. --retuned FILES adds DPO and ORPO tuned on that very
variant on the search lineages (`prefopt suite tune --tuning_variants ... --tuning_lineages '[5,6,7,8]'`): the same lineages as the
search had. Returns go into the file with z, the mean paired difference in standard errors over lineages, and Holm's p over the
file. Cells are kept below --output: a killed study continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.losses.discovered import FOLDER
from prefopt.losses.mirror_file import load_mirror
from prefopt.suite.bars import bar
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
BLOCK = 8  # cells trained and evaluated together


@dataclass(frozen=True)
class Arm:
    """A training but for its rows: loss as in a recipe, learning rate, updates; key: what decides it, for the cache."""

    loss: Any
    learning_rate: float
    updates: int
    key: Any


def main() -> None:
    """Runs what is missing and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("losses", nargs="*", type=Path, help="exported losses")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/suite"))
    parser.add_argument("--tuned", type=Path, default=SHIPPED)
    parser.add_argument(
        "--variants", default="", help="comma-separated; default: those that a loss was found on"
    )
    parser.add_argument("--also", default="", help="further methods as tuned, comma-separated")
    parser.add_argument(
        "--retuned", type=Path, nargs="*", default=[], help="results of tuning on one variant"
    )
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    config = bench_config("small", {"inner": {"snapshots": 1}, "episodes": options.episodes})
    found = {path: load_mirror(path) for path in options.losses or sorted(FOLDER.glob("*.json"))}
    names = (*BASELINES, *(name for name in options.also.split(",") if name))
    fixed = {name: tuned_arm(name, row) for name, row in
             load_tuned(options.tuned, config.agents.environment, names).items()}  # fmt: skip
    asked = tuple(text for text in options.variants.split(",") if text)
    cells = [(path, variant) for path, loss in found.items()
             for variant in asked or loss["provenance"]["variants"]]  # fmt: skip
    retuned = retuned_arms(options.retuned, config.agents.environment)
    variants = tuple(dict.fromkeys(variant for _, variant in cells))
    arms = {variant: {**fixed, **retuned.get(variant, {}),
                      **{str(p): found_arm(p, found[p]) for p, v in cells if v == variant}}
            for variant in variants}  # fmt: skip
    returns, lineages = run(config, arms, options.output, options.threads)
    rows = [row_of(config, path, found[path], variant, returns[variant]) for path, variant in cells]
    write_json(options.json, {"settings": config.model_dump(mode="json"), "lineages": lineages,
                              "versions": suite_versions(), "variants": rows, "statements": statements(rows)})  # fmt: skip


def found_arm(path: Path, loss: Mapping[str, Any]) -> Arm:
    """A discovered loss with the learning rate and length of its search."""
    told = loss["provenance"]
    rate, updates = told["learning_rate"], told["updates"]
    key = {"sha256": loss["sha256"], "learning_rate": rate, "updates": updates, "loss": loss["sha256"]}
    return Arm({"name": "mirror", "file": str(path)}, rate, updates, key)


def tuned_arm(name: str, tuned: Mapping[str, Any]) -> Arm:
    """A method of the bench with tuned hyperparameters and length."""
    terms, rate = find_method(name).terms(tuned["hyper"]), tuned["hyper"]["learning_rate"]
    key = {"learning_rate": rate, "updates": tuned["updates"], "loss": terms}
    return Arm(terms, rate, tuned["updates"], key)


def retuned_arms(files: Sequence[Path], environment: str) -> dict[str, dict[str, Arm]]:
    """Arms NAME_retuned of each variant. Raises PrefoptError for a file tuned on several variants."""
    out: dict[str, dict[str, Arm]] = {}
    for path in files:
        variants = (read_json(path) or {}).get("settings", {}).get("tuning_variants", [])
        if len(variants) != 1:
            raise PrefoptError(f"{path}: tuned on {variants}, not on one variant; tune again for one")
        rows = load_tuned(path, environment, BASELINES)
        out[variants[0]] = {f"{name}_retuned": tuned_arm(name, row) for name, row in rows.items()}
    return out


def run(
    config: BenchConfig, arms: Mapping[str, Mapping[str, Arm]], root: Path, threads: int
) -> tuple[dict[str, dict[str, list[float]]], list[dict[str, Any]]]:
    """Mean returns {variant: {arm: one per lineage}} and the lineages, one after the other: one bank in memory."""
    returns: dict[str, dict[str, list[float]]] = {v: {name: [] for name in own} for v, own in arms.items()}
    lineages = []
    cells = [(variant, name) for variant, own in arms.items() for name in own]
    seeds = config.reporting()
    with bar("re-test", len(seeds) * len(cells)) as moved:
        for seed in seeds:
            given = material(config, root, lineage=seed, threads=threads)
            lineages.append(lineage_figures(given))
            for first in range(0, len(cells), BLOCK):
                block = cells[first : first + BLOCK]
                values = block_returns(given, [(v, arms[v][name]) for v, name in block], root, threads)
                for (variant, name), value in zip(block, values, strict=True):
                    returns[variant][name].append(value)
                moved(len(block))
    return returns, lineages


def block_returns(given: Material, cells: Sequence[tuple[str, Arm]], root: Path, threads: int) -> list[float]:
    """Mean return of each cell's policy in a lineage, from the cache or trained now."""
    paths = [_cell_folder(given, arm, variant, root) / "row.json" for variant, arm in cells]
    missing = [k for k, path in enumerate(paths) if read_json(path) is None]
    if missing:
        members = []
        for variant, arm in (cells[k] for k in missing):
            pairs = make_pairs(given.bank, parse_variant(variant), given.config.rows, 0)
            ones = np.ones(len(pairs.winner))
            members.append(
                Member(arm.loss, arm.learning_rate, pairs.winner, pairs.loser, ones, 0, stop=arm.updates)
            )
        policies = train_members(given, members, workers=threads).final()
        values = returns_of(given, policies, given.config.episodes, [0] * len(members), threads=threads)
        for k, value in zip(missing, values.mean(axis=1), strict=True):
            write_json(paths[k], {"return": float(value)})
    return [float(read_json(path)["return"]) for path in paths]


def _cell_folder(given: Material, arm: Arm, variant: str, root: Path) -> Path:
    include = {"agents", "bank", "inner", "rows", "episodes", "mode"}
    settings = given.config.model_dump(mode="json", include=include)
    return folder_of(root, "retest", settings, arm.key, variant, given.found.identity())


def row_of(
    config: BenchConfig, path: Path, loss: Mapping[str, Any], variant: str, returns: Mapping[str, list[float]]
) -> dict[str, Any]:
    """What the file says of a loss on a variant: its returns beside those of every arm that is no other found loss."""
    own = returns[str(path)]
    others = {name: values for name, values in returns.items() if not name.endswith(".json")}
    return {
        "env": config.agents.environment,
        "variant": variant,
        "loss_file": path.name,
        "loss_sha256": loss["sha256"],
        "found_on": loss["provenance"]["variants"],
        "episodes": config.episodes,
        "returns": own,
        **interval(own),
        **{f"returns_{name}": values for name, values in others.items()},
        **{f"z_vs_{name}": paired(own, values)["z"] for name, values in others.items()},
    }


def statements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Found better than each other arm, with verdicts (Holm over all)."""
    return with_verdicts([
        {"claim": f"{row['loss_file']} better than {key.removeprefix('returns_')} on {row['variant']}",
         **paired(row["returns"], row[key])}
        for row in rows for key in row if key.startswith("returns_")
    ])  # fmt: skip


if __name__ == "__main__":
    main()
