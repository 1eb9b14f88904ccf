"""Write the generated parts of docs/suite.md and docs/discovery.md and their figures from the committed results.

    python tools/suite_docs.py

Reads studies/results/suite-lineages.json and the packaged tuned.json, and discovery.json, discovery-parts.json and transfer.json where they are.
A test holds both pages against them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefopt.suite.bench.statistics import interval
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
FOUND_PAGE = ROOT / "docs" / "discovery.md"
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


def found_page(text: str) -> str:
    """The page of discovery with the tables of its results written anew."""
    for name in ("discovery", "transfer"):
        if (RESULTS / f"{name}.json").exists():
            text = put(text, name, found_markdown(read(f"{name}.json")["variants"]))
    if (RESULTS / "discovery-parts.json").exists():
        text = put(text, "parts", parts_markdown(read("discovery-parts.json")["rows"]))
    return text


def parts_markdown(rows: list[dict[str, Any]]) -> str:
    """Share of each arm of studies/suite_parts.py, a line per loss."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    lines = ["| loss | variant | " + " | ".join(arms) + " |", "|---" * (2 + len(arms)) + "|"]
    for name, variant in dict.fromkeys((row["loss_file"], row["variant"]) for row in rows):
        own = {
            row["arm"]: row["share"] for row in rows if (row["loss_file"], row["variant"]) == (name, variant)
        }
        lines.append(
            f"| {Path(name).stem} | {variant} | " + " | ".join(f"{own[arm]:.2f}" for arm in arms) + " |"
        )
    return "\n".join(lines) + "\n"


def found_markdown(rows: list[dict[str, Any]]) -> str:
    """Mean returns ± half width of the 95% interval over lineages, each other arm with the found loss's z against it."""
    arms = list(dict.fromkeys(key for row in rows for key in row if key.startswith("returns_")))
    names = [arm.removeprefix("returns_") for arm in arms]
    lines = ["| loss | variant | return | " + " | ".join(f"{name} (z)" for name in names) + " |"]
    lines.append("|---" * (3 + len(arms)) + "|")
    for row in rows:
        cells = [Path(row["loss_file"]).stem, row["variant"], f"**{spread(row['returns'])}**"]
        cells += [f"{spread(row[arm])} ({row[f'z_vs_{name}']:+.1f})" if arm in row else ""
                  for arm, name in zip(arms, names, strict=True)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± half width."""
    found = interval(values)
    return f"{found['mean']:.0f} ± {found['half_width']:.0f}"


def figures() -> dict[str, str]:
    """Name of each figure's file and its SVG."""
    return {"suite-returns.svg": returns_svg(read("suite-lineages.json"))}


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def main() -> None:
    """Writes page and figures."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    FOUND_PAGE.write_text(found_page(FOUND_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for name, svg in figures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
