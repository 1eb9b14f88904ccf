"""Every attempt of every kind: `make chaos`, or `python tests/chaos/everything.py --output tests/chaos/results.json`.

Writes the figures (nothing in them depends on the machine) and what went wrong, and says it by its exit code. With
`--only KIND ...` these alone are tried anew and the others' figures stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
    options = parser.parse_args()
    found = json.loads(options.output.read_text()) if options.output.is_file() else {}
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, Host(Path(folder) / "scratch") as host:
        world = build_world(Path(folder) / "world", host)
        for name in options.only:
            if name == "full disks" and not limits.may_mount(Path(folder)):
                print(
                    "full disks: left out, a small file system can be mounted by root alone", file=sys.stderr
                )
                continue
            start = time.perf_counter()
            figures = KINDS[name](world, Path(folder) / name.replace(" ", "-"))
            found[name] = figures.as_json()
            wrong += len(figures.wrong)
            print(f"{name} ({time.perf_counter() - start:.0f} s): {figures.shown()}", flush=True)
            ordered = {kind: found[kind] for kind in KINDS if kind in found}
            options.output.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
