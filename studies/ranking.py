"""Ranking by comparisons: what it finds, what it costs, and what a judge's faults do to it.

    python studies/ranking.py --part simulated recorded scalar reward --seeds 5 --docs docs/ranking.md
    python studies/ranking.py --part quickstart --seeds 5

Parts: simulated (judge of known worth), recorded (real tournaments), scalar (ipr against a scalar score at equal calls), reward
(reward models trained on one domain and used on another), quickstart (accuracy after training). Each part replaces its own
section of the JSON; `--docs` writes the tables between the markers of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from prefopt.tables.records import write_json
from prefopt.tables.versions import versions

ROOT = Path(__file__).parent.parent
PARTS = ("simulated", "recorded", "scalar", "reward", "quickstart")


def run_part(name: str, seeds: int, data: Path, *, small: bool = False) -> dict[str, Any]:
    """The section of one part."""
    if name == "simulated":
        from ranking_simulated import run_simulated

        return run_simulated(seeds)
    if name == "scalar":
        from ranking_simulated import run_scalar

        return run_scalar(seeds)
    if name == "recorded":
        from ranking_recorded import run_recorded

        return run_recorded(seeds, data)
    if name == "reward":
        from ranking_reward import run_reward

        return run_reward(seeds, data, small=small)
    from ranking_quickstart import run_quickstart

    return run_quickstart(seeds, small=small)


def main() -> None:
    """Run the parts asked for and write JSON and tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part", nargs="*", choices=PARTS, default=[], help="parts to run; none: only write the tables"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0..N-1 (orders, draws, trainings)")
    parser.add_argument("--json", type=Path, default=ROOT / "studies" / "results" / "ranking.json")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("PREFOPT_SHARED_DATA", ROOT.parent / "shared" / "data")),
    )
    parser.add_argument("--docs", type=Path, help="guide whose tables are replaced")
    parser.add_argument("--small", action="store_true", help="reward, quickstart: a smoke run of a few steps")
    options = parser.parse_args()
    for name in options.part:
        found = run_part(name, options.seeds, options.data, small=options.small)
        study = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
        study[name] = {
            "command": f"python studies/ranking.py --part {name} --seeds {options.seeds}"
            + " --small" * options.small,
            "seeds": options.seeds,
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
            "versions": versions(),
            **found,
        }
        write_json(options.json, {part: study[part] for part in PARTS if part in study})
        print(f"{name}: done", flush=True)
    if options.docs:
        from ranking_tables import write_tables

        write_tables(options.docs, json.loads(options.json.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
