"""Write the generated parts of docs/suite.md and docs/discovery.md and their figures from the committed results.

    python tools/suite_docs.py

Reads studies/results/suite-lineages.json and the packaged tuned.json, and studies/results/discovery.json where it is there.
A test holds the page of the suite against them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefopt.suite.bench.tables import (
    costs_markdown,
    data_markdown,
    lengths_markdown,
    lineages_markdown,
    markdown,
    orderings_markdown,
    tuned_markdown,
)
from prefopt.suite.figures.svg import returns_svg

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "suite.md"
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "studies" / "results"
TUNED = ROOT / "src" / "prefopt" / "suite" / "bench" / "tuned.json"


def put(text: str, name: str, inner: str) -> str:
    """Replace what stands between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{inner}{end}{rest.split(end)[1]}"


def page(text: str) -> str:
    """The page with its generated parts written anew."""
    result, tuned = read("suite-lineages.json"), json.loads(TUNED.read_text(encoding="utf-8"))
    parts = {
        "lineages": lineages_markdown(result), "returns": markdown(result), "orderings": orderings_markdown(result),
        "costs": costs_markdown(result), "lengths": lengths_markdown(result), "data": data_markdown(result),
        "tuned": tuned_markdown(result, tuned),
    }  # fmt: skip
    for name, inner in parts.items():
        text = put(text, name, inner)
    return text


def figures() -> dict[str, str]:
    """Name of each figure's file and its SVG."""
    return {"suite-returns.svg": returns_svg(read("suite-lineages.json"))}


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def main() -> None:
    """Writes page and figures."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for name, svg in figures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
