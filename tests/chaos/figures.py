"""What attempts found: how many there were, how many went wrong, and what was said of those."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# wall-clock figures differ between equal runs; locks name processes
APART = {"timings.parquet", "report.html"}
SECONDS = ("seconds", "stage_seconds")


@dataclass
class Figures:
    """attempts: how many. wrong: a line for each that broke a promise. counts: further figures for the table."""

    attempts: int = 0
    wrong: list[str] = field(default_factory=list)
    tracebacks: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, problem: str = "", **counts: int) -> None:
        """One attempt; `problem` is empty where the promise held."""
        self.attempts += 1
        self.counts.update(counts)
        if problem:
            self.wrong.append(problem)

    def add(self, other: Figures) -> None:
        """Other attempts of the same kind."""
        self.attempts += other.attempts
        self.wrong += other.wrong
        self.tracebacks += other.tracebacks
        self.counts.update(other.counts)

    def as_json(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts, "wrong": len(self.wrong), "tracebacks": self.tracebacks,
            **dict(sorted(self.counts.items())),
        }  # fmt: skip

    def shown(self) -> str:
        return f"{len(self.wrong)} of {self.attempts} wrong:\n" + "\n".join(self.wrong)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder that must be the same in equal runs, by relative name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in APART or "lock" in path.name:
            continue
        data = path.read_bytes()
        if path.name == "summary.json":
            data = json.dumps({k: v for k, v in json.loads(data).items() if k not in SECONDS}).encode()
        found[str(path.relative_to(folder))] = data
    return found


def difference(expected: dict[str, bytes], found: dict[str, bytes]) -> str:
    """What differs, in one line; empty where nothing does."""
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    changed = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    parts = (("missing", missing), ("too many", more), ("other bytes", changed))
    return "; ".join(f"{what}: {', '.join(names[:4])}" for what, names in parts if names)


def spread(items: Sequence[T], most: int | None, seed: int) -> list[T]:
    """`most` of the items, evenly spread (all of them for None); another seed takes others."""
    if most is None or most >= len(items):
        return list(items)
    return [items[(k * len(items) // most + seed) % len(items)] for k in range(most)]
