"""What the four arms of the quickstart are worth, over several seeds.

    python studies/quickstart.py --seeds 5 --json studies/results/quickstart.json

Every seed is a whole run of recipes/quickstart.yaml (sampling, pairs, training, evaluation on the test prompts). Settings were
tuned on the tuning prompts with other seeds. Reported per arm: accuracy by seed, mean over seeds with its standard error, and
the paired difference of the main arm against every other arm, by seed and over seeds (t interval over seeds).
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run
from prefopt.tables.records import write_json
from prefopt.tables.versions import versions

RECIPE = "quickstart"
T975 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}  # t table, 97.5%


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean, standard error and 95% t interval of one value per seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"by_seed": values, "mean": mean}
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = T975[len(values) - 1] * error
    return {"by_seed": values, "mean": mean, "standard_error": error, "low": mean - half, "high": mean + half}


def collect(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The study's table from the summaries of all seeds."""
    main = summaries[0]["main"]
    arms = list(summaries[0]["accuracy"])
    table = {
        measure: {arm: over_seeds([s[measure][arm]["mean"] for s in summaries]) for arm in arms}
        for measure in ("accuracy", "greedy")
    }
    table["chosen_drift"] = {
        arm: over_seeds([s["chosen_drift"][arm] for s in summaries]) for arm in summaries[0]["chosen_drift"]
    }
    against = {
        arm: {
            measure: over_seeds([s["paired"][main][arm][measure]["mean"] for s in summaries])
            for measure in ("accuracy", "greedy")
        }
        for arm in arms
        if arm != main
    }
    intervals = [
        {"accuracy": s["accuracy"], "greedy_against_base": s["paired"][main]["base"]["greedy"]}
        for s in summaries
    ]
    return {"main": main, **table, "main_against": against, "intervals_by_seed": intervals}


def main() -> None:
    """Run all seeds and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0..N-1")
    parser.add_argument("--json", type=Path, default=Path("quickstart-study.json"))
    parser.add_argument("--runs", type=Path, help="keep the run folders here (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        seeds = range(options.seeds)
        summaries = [run(load_recipe(RECIPE, {"seed": seed}), folder / str(seed)) for seed in seeds]
    write_json(options.json, {
        "study": "quickstart",
        "command": f"python studies/quickstart.py --seeds {options.seeds}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": versions(),
        "seeds": list(seeds),
        **collect(summaries),
    })  # fmt: skip


if __name__ == "__main__":
    main()
