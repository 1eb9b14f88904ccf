"""What a recipe with `seeds` comes to: every arm's figures over the seeds, the main arm against the others, one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.core.terminal import console as make_console
from prefopt.report import plots, text
from prefopt.report.html import template, write_page
from prefopt.report.sections import METRICS
from prefopt.report.sweep import sweep_view
from prefopt.rules.student import holm, over_seeds

Summary = Mapping[str, Any]
SHARES = ("accuracy", "greedy", "pair_accuracy")  # figures of an arm that are shares with a mean
GAIN, LOSS, OPEN = "a clear gain", "clearly worse", "no clear difference"
LEVEL = 0.05


def summarize_seeds(summaries: Mapping[int, Summary], folders: Mapping[int, str]) -> dict[str, Any]:
    """The summary over seeds (docs/summary.md). summaries, folders: seed -> of its run.

    Intervals are t intervals over seeds; differences are paired by seed, p-values corrected by Holm over all of a measure.
    """
    runs = list(summaries.values())
    first = runs[0]
    measures = [name for name in SHARES if all(run.get(name) for run in runs)]
    arms = ["base", *first["arms"]]
    summary: dict[str, Any] = {
        "recipe": first["recipe"],
        "about": first["about"],
        "model": first["model"],
        "seeds": list(summaries),
        "main": first["main"],
        "arms": list(first["arms"]),
        **{name: _by_arm(runs, name, arms) for name in measures},
        "chosen_drift": _drift(runs),
        "main_against": _against(runs, measures, arms),
        "runs": {str(seed): folder for seed, folder in folders.items()},
        "seconds": round(sum(run["seconds"] for run in runs), 2),
    }
    summary["verdict"] = list(_verdict(summary))
    return summary


def _by_arm(runs: Sequence[Summary], name: str, arms: Sequence[str]) -> dict[str, Any]:
    return {
        arm: over_seeds([run[name][arm]["mean"] for run in runs]) for arm in arms if _has(runs, name, arm)
    }


def _has(runs: Sequence[Summary], name: str, arm: str) -> bool:
    return all((run[name].get(arm) or {}).get("mean") is not None for run in runs)


def _drift(runs: Sequence[Summary]) -> dict[str, Any]:
    arms = set.intersection(*(set(run.get("chosen_drift") or {}) for run in runs))
    return {
        arm: over_seeds([run["chosen_drift"][arm] for run in runs]) for arm in runs[0]["arms"] if arm in arms
    }


def _against(runs: Sequence[Summary], measures: Sequence[str], arms: Sequence[str]) -> dict[str, Any]:
    """Other arm -> measure -> difference of the main arm to it, by seed."""
    main = runs[0]["main"]
    found: dict[str, dict[str, Any]] = {}
    for name in measures:
        others = [arm for arm in arms if arm != main and _has(runs, name, arm) and _has(runs, name, main)]
        compared = [
            over_seeds([run[name][main]["mean"] - run[name][arm]["mean"] for run in runs]) for arm in others
        ]
        if len(runs) > 1:
            corrected = holm([figures["p"] for figures in compared])
            compared = [figures | {"p_holm": p} for figures, p in zip(compared, corrected, strict=True)]
        for arm, figures in zip(others, compared, strict=True):
            found.setdefault(arm, {})[name] = figures
    return found


def _verdict(summary: Summary) -> Iterator[str]:
    main = summary["main"]
    for arm, measures in summary["main_against"].items():
        for name, figures in measures.items():
            yield f"{METRICS[name]}: {main} against {arm}: {_difference(figures)}."


def _difference(figures: Mapping[str, Any]) -> str:
    mean = f"{100 * figures['mean']:+.1f} points"
    if figures["low"] is None:
        return f"{mean} in one seed, which says nothing of others"
    clear = figures["p_holm"] < LEVEL
    judged = (GAIN if figures["mean"] > 0 else LOSS) if clear else OPEN
    ends = f"[{100 * figures['low']:+.1f}, {100 * figures['high']:+.1f}]"
    return f"{mean} {ends} over {figures['n']} seeds, {judged} (p {figures['p_holm']:.2g} by Holm)"


def print_seeds(summary: Summary) -> None:
    """Means over seeds by arm, and the verdict, on standard output."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    console = make_console()
    measures = [name for name in SHARES if name in summary]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("arm", no_wrap=True)
    for name in measures:
        table.add_column(METRICS[name], justify="right")
    for arm in ("base", *summary["arms"]):
        cells = [_cell(summary[name].get(arm)) for name in measures]
        table.add_row(escape(arm), *cells, style="bold" if arm == summary["main"] else None)
    console.print(table)
    for said in summary["verdict"]:
        console.print(escape(said), highlight=False)
    count = f"{len(summary['arms'])} arm(s), {len(summary['seeds'])} seeds, {summary['seconds']:.0f} s"
    console.print(count, highlight=False, style="dim")


def _cell(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "-"
    ends = "" if figures["low"] is None else f" [{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]"
    return f"{100 * figures['mean']:.1f}%{ends}"


def write_seeds_page(folder: Path, summary: Summary, output: Path | None = None) -> Path:
    """Write `report.html` of the runs over seeds: figures by arm, differences, a link to each seed's own report."""
    measures = [name for name in SHARES if name in summary]
    arms = ("base", *summary["arms"])
    views = {
        "name": summary["recipe"],
        "about": summary["about"],
        "seeds": summary["seeds"],
        "facts": [("model", summary["model"]), ("arms", ", ".join(summary["arms"])), ("time", text.duration(summary["seconds"]))],
        "verdict": summary["verdict"],
        "ladders": [(METRICS[name], _ladder(summary, name, arms)) for name in measures],
        "rows": [(arm, [_by_seed(summary[name].get(arm)) for name in measures]) for arm in arms],
        "measures": [METRICS[name] for name in measures],
        "sweep": sweep_view(summary),
        "runs": [(seed, f"{place}/report.html") for seed, place in summary["runs"].items()],
    }  # fmt: skip
    page = text.printable(template("seeds.html.j2").render(**views))
    return write_page(page, output or folder / "report.html")


def _ladder(summary: Summary, name: str, arms: Sequence[str]) -> plots.Ladder:
    rows = []
    for number, arm in enumerate(arms):
        kind = "kb" if arm == "base" else "k0" if arm == summary["main"] else f"k{number}"
        figures = summary[name].get(arm)
        if figures is not None:
            low, high = (
                None if figures[end] is None else min(1.0, max(0.0, figures[end])) for end in ("low", "high")
            )
            rows.append((arm, kind, figures["mean"], low, high))
    return plots.ladder(rows, METRICS[name])


def _by_seed(figures: Mapping[str, Any] | None) -> str:
    return "–" if figures is None else ", ".join(f"{100 * value:.1f}" for value in figures["by_seed"])
