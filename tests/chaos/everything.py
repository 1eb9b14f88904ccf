"""Every attempt of every kind: `make chaos`, or `python tests/chaos/everything.py --output tests/chaos/results.json`.

Writes the figures (nothing in them depends on the machine) and what went wrong, and says it by its exit code. With
`--only KIND ...` these alone are tried anew and the others' figures stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos import (
    bad_models,
    bad_rows,
    bad_words,
    damaged,
    foreign,
    kills,
    limits,
    malformed,
    servers,
    together,
)
from chaos.driving import Host
from chaos.faults import FAULTS
from chaos.figures import Figures
from chaos.worlds import CHAIN, MORE, RECIPES, World, build_world

SWEPT = [*CHAIN, *(name for name in MORE if name not in ("check", "judge-check"))]
TRAININGS = ("train", "train lora", "reward")
MOUNTED = ("full disks", "read-only disks")  # need a file system of their own
Kind = Callable[[World, Path], Figures]


def killed_at_operations(world: World, folder: Path) -> Figures:
    return kills.sweep(world, folder, SWEPT, seed=1, share=0.16)


def killed_again_and_again(world: World, folder: Path) -> Figures:
    figures = Figures()
    for seed in range(3):
        for name in RECIPES:
            figures.add(kills.chain(world, folder, name, seed))
    return figures


KINDS: dict[str, Kind] = {
    "killed at a file operation": killed_at_operations,
    "killed again and again": killed_again_and_again,
    "foreign files": foreign.run,
    "two processes": lambda world, folder: together.run(world, folder, 40, seed=1),
    "damaged checkpoints": lambda world, folder: damaged.checkpoints(world, folder, 1, TRAININGS, most=75),
    "damaged results": lambda world, folder: damaged.finished(world, folder, 1, most=40),
    "malformed data": lambda world, folder: malformed.run(world, folder, bad_rows.cases(), most=600),
    "malformed recipes and options": lambda world, folder: malformed.run(
        world, folder, bad_words.cases(world)
    ),
    "hostile models": lambda world, folder: malformed.run(world, folder, bad_models.cases(world)),
    "faulty servers": lambda world, folder: servers.run(world, folder, most=len(FAULTS)),
    "full disks": lambda world, folder: limits.full_disks(world, folder, 14, seed=1),
    "read-only disks": limits.read_only,
    "files that may not grow": lambda world, folder: limits.small_files(world, folder, 14, seed=1),
    "little memory": lambda world, folder: limits.little_memory(world, folder, 14, seed=1),
}


def main() -> None:
    """Try, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes side by side, each with kinds of its own"
    )
    options = parser.parse_args()
    if options.jobs > 1:
        sys.exit(side_by_side(options.only, options.output, options.jobs))
    sys.exit(1 if attempt(options.only, options.output) else 0)


def attempt(kinds: Sequence[str], output: Path) -> int:
    """Try these kinds, add their figures to the file after each; how many attempts went wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder) / "scratch") as host:
        world = build_world(Path(folder) / "world", host)
        for name in kinds:
            if name in MOUNTED and not limits.may_mount(Path(folder)):
                print(f"{name}: left out, a small file system can be mounted by root alone", file=sys.stderr)
                continue
            start = time.perf_counter()
            figures = KINDS[name](world, Path(folder) / name.replace(" ", "-"))
            wrong += len(figures.wrong)
            print(f"{name} ({time.perf_counter() - start:.0f} s): {figures.shown()}", flush=True)
            add(output, {name: figures.as_json()})
    return wrong


def add(output: Path, figures: dict[str, Any]) -> None:
    """Put figures into the file, kinds in their order."""
    found = (json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}) | figures
    ordered = {kind: found[kind] for kind in KINDS if kind in found}
    output.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def side_by_side(kinds: Sequence[str], output: Path, jobs: int) -> int:
    """The kinds in several processes; the largest exit code."""
    with tempfile.TemporaryDirectory() as folder:
        shares = [kinds[k::jobs] for k in range(jobs) if kinds[k::jobs]]
        parts = [Path(folder) / f"{k}.json" for k in range(len(shares))]
        command = [sys.executable, __file__, "--output"]
        running = [
            subprocess.Popen([*command, str(part), "--only", *share])
            for part, share in zip(parts, shares, strict=True)
        ]
        code = max(process.wait() for process in running)
        for part in parts:
            add(output, json.loads(part.read_text(encoding="utf-8")) if part.is_file() else {})
    return code


if __name__ == "__main__":
    main()
