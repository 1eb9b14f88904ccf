"""A search's result as a loss file that every trainer reads, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefopt.losses import export_mirror
from prefopt.tables.records import digest

PARTS = ("phi_inv", "psi", "g", "lam", "reference")


def export(result: Mapping[str, Any], path: Path) -> Path:
    """Writes the chosen loss of a result of `discover`; where it came from, and what it cost, stands in its provenance."""
    settings = result["settings"]
    retest = {name: row["share"] for name, row in result["retest"].items()}
    provenance = {
        "suite": settings["bench"]["agents"]["environment"],
        "variants": settings["search"]["variants"],
        "search": settings["search"],
        "settings": digest("discover", settings),
        "generations": result["generations"],
        "cost": result["cost"],
        "chosen": result["chosen"],
        "fitness": retest[result["chosen"]],
        "baseline": {
            "loss": settings["search"]["start"],
            **settings["baseline"],
            "fitness": retest["baseline"],
        },
        "closed_form_fitness": retest["closed_form"],
        "learning_rate": result["learning_rate"],
        "updates": result["updates"],
        "versions": result["versions"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return export_mirror(
        path, {part: result["loss"][part] for part in PARTS}, x="mean", provenance=provenance
    )
