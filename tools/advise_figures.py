"""Write src/prefopt/tools/advise/figures.json, what `prefopt advise` says of methods, from the suite's committed result.

    python tools/advise_figures.py

Reads studies/results/suite-lineages.json. A test holds the packaged file against it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefopt.suite.bench.statistics import interval, paired
from prefopt.tables.records import write_json
from prefopt.tools.advise.axes import FIGURES

SOURCE = Path(__file__).parent.parent / "studies" / "results" / "suite-lineages.json"


def figures() -> dict[str, Any]:
    """What the file holds: per method and variant the mean return and the gain over the reference, paired by lineage."""
    result = json.loads(SOURCE.read_text(encoding="utf-8"))
    start, best = ([row[name]["return"] for row in result["lineages"]] for name in ("reference", "expert"))
    return {
        "environment": result["settings"]["agents"]["environment"],
        "episodes": result["settings"]["episodes"],
        "lineages": [row["seed"] for row in result["lineages"]],
        "reference": rounded(interval(start)),
        "expert": rounded(interval(best)),
        "rows": [_row(row, start) for row in result["rows"]],
    }


def _row(row: dict[str, Any], start: list[float]) -> dict[str, Any]:
    gain = paired(row["returns"], start)
    return {
        "method": row["loss"],
        "variant": row["variant"],
        **rounded(row),
        "gain": round(gain["difference"], 1),
        "gain_half_width": round(gain["half_width"], 1),
    }


def rounded(found: dict[str, Any]) -> dict[str, float]:
    """Mean and half width of the 95% interval, to a tenth."""
    return {name: round(found[name], 1) for name in ("mean", "half_width")}


if __name__ == "__main__":
    write_json(FIGURES, figures())
    print(FIGURES)
