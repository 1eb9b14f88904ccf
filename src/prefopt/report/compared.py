"""The page of `prefopt compare`: several runs side by side, in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefopt.report.html import template
from prefopt.report.plots import ladder
from prefopt.report.text import percent_interval, points, printable

TITLES = {
    "accuracy": "Sampled accuracy",
    "greedy": "Greedy accuracy",
    "pair_accuracy": "Held-out pairs ranked rightly",
}
TONES = {"better": "good", "worse": "bad"}


def compared_page(found: Mapping[str, Any]) -> str:
    """The page as text. found: what `prefopt.tools.compare.compare` gives. Equal input gives equal bytes."""
    names = [run["name"] for run in found["runs"]]
    kinds = {name: f"k{k % 6}" for k, name in enumerate(names)}
    page = template("compared.html.j2").render(
        names=names,
        runs=found["runs"],
        warnings=found["warnings"],
        metrics=[_view(key, metric, kinds) for key, metric in found["metrics"].items()],
    )  # fmt: skip
    return printable(page)


def _view(key: str, metric: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    rows = [(name, kinds[name], e["mean"], e["low"], e["high"]) for name, e in metric["figures"].items()]
    return {
        "title": TITLES[key],
        "items": metric["items"],
        "of": "pairs" if key == "pair_accuracy" else "prompts",
        "ladder": ladder(rows, TITLES[key]),
        "paired": [
            {
                **row, "kind": kinds[row["a"]], "difference": points(row["mean"]), "interval": percent_interval(row),
                "tone": TONES.get(row["verdict"], "plain"),
            }
            for row in metric["paired"]
        ],
    }  # fmt: skip
