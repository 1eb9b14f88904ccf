"""Where data lie on the axes of the diagnostic suite, and which methods held there: read from figures.json, no suite needed.

figures.json is made by tools/advise_figures.py from the suite's committed results; a test holds it against them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("figures.json")
AXES = {"noise": "noisy", "equal": "mixed"}  # estimate -> kind of data variant, whose number is a share
HELD, FELL, OPEN = "held", "fell", "undecided"


def load_figures() -> dict[str, Any]:
    """The packaged figures."""
    found: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return found


def levels(figures: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Variants of a kind with their share; `base` is 0 of each."""
    found = {"base": 0.0}
    for row in figures["rows"]:
        name, _, number = row["variant"].partition(":")
        if name == kind:
            found[row["variant"]] = float(number)
    return found


def place(figures: Mapping[str, Any], kind: str, estimate: Mapping[str, Any]) -> list[str]:
    """The measured variants of a kind that the interval reaches, or else the nearest; all where the estimate is unsure."""
    known = levels(figures, kind)
    if estimate["unsure"]:
        return list(known)
    inside = [name for name, share in known.items() if estimate["low"] <= share <= estimate["high"]]
    nearest = min(known, key=lambda name: abs(known[name] - estimate["value"]))
    return inside if nearest in inside else [nearest, *inside]


def verdict(row: Mapping[str, Any]) -> str:
    """held: better than the policy that training began from, fell: worse, by the 95% interval over lineages."""
    low, high = (row["gain"] + side * row["gain_half_width"] for side in (-1, 1))
    return HELD if low > 0 else FELL if high < 0 else OPEN


def methods_on(figures: Mapping[str, Any], variant: str) -> list[dict[str, Any]]:
    """Rows of a variant with their verdict, the best mean first."""
    rows = [{**row, "verdict": verdict(row)} for row in figures["rows"] if row["variant"] == variant]
    return sorted(rows, key=lambda row: -row["mean"])


def lineages_text(seeds: Sequence[int]) -> str:
    """9-16 for 9, 10, ..., 16; else one after the other."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(str(seed) for seed in seeds)
