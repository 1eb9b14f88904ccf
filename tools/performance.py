"""Write the tables of docs/performance.md and of README's section on speed, and docs/images/performance.svg, from the JSON
in benchmarks/results.

    python tools/performance.py

A table whose JSON is not there says which command makes it. A test holds pages and figure against the JSON.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
FIGURE = ROOT / "docs" / "images" / "performance.svg"

# the file of each section, and the command that writes it
COMMANDS = {
    "train": "python benchmarks/train.py --data DIR --json benchmarks/results/train.json",
    "train-quick": "python benchmarks/train.py --quick --json benchmarks/results/train-quick.json",
    "reference": "python benchmarks/reference.py --data DIR --json benchmarks/results/reference.json",
    "memory": "python benchmarks/memory.py --json benchmarks/results/memory.json",
    "gpu": "python benchmarks/gpu.py --json benchmarks/results/gpu.json",
}
# tables of train.json -> what stands in the page and under the bars
TITLES = {
    "1:1": "DPO, prompt:answer 1:1",
    "4:1": "DPO, prompt:answer 4:1",
    "1:4": "DPO, prompt:answer 1:4",
    "tldr": "DPO, lengths of tldr",
    "hh_helpful": "DPO, lengths of hh_helpful",
    "dpo/152k": "DPO, 152k vocabulary",
    "orpo/32k": "ORPO",
    "simpo/32k": "SimPO",
    "orpo/152k": "ORPO, 152k vocabulary",
    "simpo/152k": "SimPO, 152k vocabulary",
    "own-order": "DPO, each tool's own order",
}
# passes of memory.json
PASSES = {
    "reference": "reference pass",
    "given_store": "reference pass, all from a given store",
    "select": "selection",
    "weight": "weights",
    "train": "training, 5 steps",
    "kto": "training by KTO, 5 steps",
}
# what README tells of them
SHORT = {
    "1:1": "DPO, prompt and answer of equal length",
    "tldr": "DPO, lengths of TL;DR",
    "1:4": "DPO, answers four times the prompt",
    "orpo/152k": "ORPO, 152k vocabulary",
    "simpo/152k": "SimPO, 152k vocabulary",
}
BARS = {"1:1": "1:1", "4:1": "4:1", "1:4": "1:4", "tldr": "tldr", "hh_helpful": "hh_helpful"}


def load(name: str) -> dict[str, Any] | None:
    """A file of results, None where it has not been made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def train_result() -> tuple[str, dict[str, Any] | None]:
    """The full run, or the quick one while there is no other."""
    full = load("train")
    return ("train", full) if full else ("train-quick", load("train-quick"))


def missing(name: str) -> str:
    """What stands in place of a table that has not been measured."""
    return f"Not measured yet: `{COMMANDS[name]}`"


# ---- tables


def train_table() -> str:
    """Speed, memory and losses of training, one line per table."""
    name, result = train_result()
    if result is None:
        return missing("train")
    lines = [
        "| what | prefopt, pairs/s | TRL, pairs/s (micro-batch) | speed | peak memory, MiB | memory | largest difference of a step's loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, title in TITLES.items():
        table = result["tables"].get(key)
        if table is None:
            continue
        best = table["best_trl"]
        ours, theirs = table["arms"]["prefopt"], table["arms"][best]
        memory = [f"{arm['peak_memory_mib']['median']:.0f}" for arm in (ours, theirs)]
        difference = table.get("largest_loss_difference")
        cells = [
            title,
            _span(ours["pairs_per_s"]),
            f"{_span(theirs['pairs_per_s'])} ({best.removeprefix('trl/')})",
            f"**{_span(table['ratio_pairs_per_s'])}**",
            f"{memory[0]}, TRL {memory[1]}",
            f"{table['ratio_peak_memory']['median']:.2f}",
            "" if difference is None else f"{difference:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    curves = {key: table for key, table in result["tables"].items() if key.startswith("curves/")}
    if curves:
        told = ", ".join(
            f"{key.removeprefix('curves/').upper().replace('SIMPO', 'SimPO')} {table['largest_loss_difference']:.0e}"
            for key, table in curves.items()
        )
        steps = len(next(iter(curves.values()))["losses"]["prefopt"])
        lines += ["", f"Largest difference of the losses over {steps} steps of a tiny model: {told}."]
    return "\n".join([*lines, "", source(name, result)])


def reference_table() -> str:
    """Speed of the reference pass, one line per table."""
    result = load("reference")
    if result is None:
        return missing("reference")
    lines = [
        "| lengths | packed rows, pairs/s | padded batches, pairs/s | TRL, pairs/s (batch) | packed / TRL |",
        "|---|---|---|---|---|",
    ]
    for key, table in result["tables"].items():
        rates, best = table["pairs_per_s"], table["best_trl"]
        cells = [
            "1:1, 152k vocabulary" if key == "152k" else key,
            _span(rates["packed"]),
            _span(rates["padded"]),
            f"{_span(rates[best])} ({best.removeprefix('trl/')})",
            f"**{_span(table['ratio_pairs_per_s'])}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", source("reference", result)])


def memory_table() -> str:
    """Memory by the number of pairs, one line per pass."""
    result = load("memory")
    if result is None:
        return missing("memory")
    sizes = sorted({figure["rows"] for figure in result["figures"]})
    found = {(figure["pass"], figure["rows"]): figure["anonymous_mib"] for figure in result["figures"]}
    lines = [
        f"| pass | {' | '.join(f'{size:,} pairs' for size in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for name in dict.fromkeys(name for name, _ in found):
        cells = [f"{found[name, size]:.0f}" if (name, size) in found else "" for size in sizes]
        lines.append(f"| {PASSES.get(name, name)} | {' | '.join(cells)} |")
    made = source("memory", {"machine": result})
    return "\n".join([*lines, "", made])


def gpu_table() -> str:
    """Speed, MFU and memory on one CUDA device, one line per arm."""
    result = load("gpu")
    if result is None:
        return missing("gpu")
    lines = ["| shape | arm | pairs/s | MFU | peak memory, GiB |", "|---|---|---|---|---|"]
    for key, table in result["tables"].items():
        for arm, figures in table["arms"].items():
            if "pairs_per_s" not in figures:
                lines.append(f"| {key} | {arm} | {figures.get('error') or figures['skipped']} | | |")
                continue
            memory = figures["peak_memory_mib"]["median"] / 1024
            mfu = f"{100 * figures['mfu']['median']:.0f}%"
            lines.append(f"| {key} | {arm} | {_span(figures['pairs_per_s'])} | {mfu} | {memory:.1f} |")
        if "ratio_pairs_per_s" in table:
            lines.append(f"| {key} | speed, ours / TRL | **{_span(table['ratio_pairs_per_s'])}** | | |")
    told = result.get("trl", "installed")
    note = [] if told == "installed" else [f"TRL: {told}.", ""]
    return "\n".join([*lines, "", *note, source("gpu", result)])


def speed_table() -> str:
    """README's table: ratios to TRL of speed and memory."""
    _, trained = train_result()
    passed = load("reference")
    lines = ["| what | pairs per second, prefopt / TRL | peak memory, prefopt / TRL |", "|---|---|---|"]
    for key, title in SHORT.items():
        table = trained["tables"].get(key) if trained else None
        if table:
            memory = table["ratio_peak_memory"]["median"]
            lines.append(f"| {title} | {_span(table['ratio_pairs_per_s'])} | {memory:.2f} |")
    table = passed["tables"].get("1:1") if passed else None
    if table:
        lines.append(f"| the reference pass | {_span(table['ratio_pairs_per_s'])} | |")
    quick = load("train-quick")
    if quick:
        span = _span(quick["tables"]["1:1"]["ratio_pairs_per_s"])
        lines += ["", f"`{COMMANDS['train-quick'].split(' --json')[0]} --json out.json` gives the first line in two minutes; its `ratio_pairs_per_s` was {span}."]  # fmt: skip
    return "\n".join(lines)


def source(name: str, result: dict[str, Any]) -> str:
    """Machine, versions and command of a table."""
    machine = result["machine"]
    packages = ("torch", "transformers", "trl")
    versions = ", ".join(
        f"{package} {machine['versions'][package]}" for package in packages if machine["versions"][package]
    )
    device = (
        machine["device"] if machine["device"] != "cpu" else f"{machine['cpu']}, {machine['cores']} cores"
    )
    return (
        f"{device}; {versions}; [{name}.json](../benchmarks/results/{name}.json), made by `{COMMANDS[name]}`."
    )


def _span(figure: dict[str, Any]) -> str:
    """Median, and least to greatest where there are several runs."""
    digits = 1 if figure["median"] >= 20 else 2
    median, low, high = (f"{figure[key]:.{digits}f}" for key in ("median", "low", "high"))
    return median if len(figure["runs"]) == 1 else f"{median} [{low}, {high}]"


# ---- figure

WIDTH, ROW, LEFT, RIGHT, TOP = 640, 46, 96, 150, 34
BLUE, GREY = "#3b7dd8", "#8a8f98"  # readable on white and on black


def figure() -> str:
    """Bars of pairs/s by mix, ours and TRL's; grey text, so that it reads on light and dark pages."""
    _, result = train_result()
    tables = (
        {label: result["tables"][key] for key, label in BARS.items() if key in result["tables"]}
        if result
        else {}
    )
    rates = {
        label: [table["arms"][arm]["pairs_per_s"]["median"] for arm in ("prefopt", table["best_trl"])]
        for label, table in tables.items()
    }
    most = max((max(pair) for pair in rates.values()), default=1.0)
    height = TOP + ROW * len(rates) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="{GREY}">',
        "<title>Training speed by lengths of prompt and answer: prefopt and TRL</title>",
        f'<rect x="{LEFT}" y="8" width="11" height="11" fill="{BLUE}"/><text x="{LEFT + 17}" y="18">prefopt</text>',
        f'<rect x="{LEFT + 90}" y="8" width="11" height="11" fill="{GREY}"/><text x="{LEFT + 107}" y="18">TRL, its best micro-batch (pairs per second)</text>',
    ]
    for row, (label, pair) in enumerate(rates.items()):
        top = TOP + ROW * row
        parts.append(f'<text x="{LEFT - 10}" y="{top + 22}" text-anchor="end">{label}</text>')
        for k, (value, colour) in enumerate(zip(pair, (BLUE, GREY), strict=True)):
            length = round((WIDTH - LEFT - RIGHT) * value / most, 1)
            y = top + 17 * k
            note = f"{value:.2f}" + (
                f" ({tables[label]['ratio_pairs_per_s']['median']:.1f}x)" if k == 0 else ""
            )
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length}" height="15" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 6}" y="{y + 12}">{note}</text>')
    return "\n".join([*parts, "</svg>", ""])


def page(text: str) -> str:
    """The page with every generated part written anew."""
    put = _readme_tool().put
    tables = {"train": train_table, "reference": reference_table, "memory": memory_table, "gpu": gpu_table}
    for name, inner in tables.items():
        text = put(text, name, inner())
    return text


def readme(text: str) -> str:
    """README with its table of speed written anew."""
    return str(_readme_tool().put(text, "speed", speed_table()))


def _readme_tool() -> Any:
    spec = importlib.util.spec_from_file_location("readme_tool", Path(__file__).with_name("readme.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write page and figure."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(figure(), encoding="utf-8")


if __name__ == "__main__":
    main()
