"""Figures of MT-Bench's protocol on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from prefopt.core.terminal import console, one_line


def print_mt_bench(figures: Mapping[str, Any]) -> None:
    """Tables of grades, or of win rates and agreement; warnings last."""
    for name, found in figures.get("models", {}).items():
        _grades(name, found)
    for kind, parts in figures.get("win_rates", {}).items():
        _win_rates(kind, parts)
    _agreement(figures.get("agreement", ()))
    for text in figures.get("warnings", ()):
        console().print(Text(f"Warning: {one_line(text)}"))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    screen = console()
    screen.print(Text(one_line(title)))
    table = Table(box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(Text(one_line(column)), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    screen.print(table)


def _grades(name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    titles = list(next(iter(found.values())))
    rows = [[category, *(_mean(turns[title]) for title in titles)] for category, turns in found.items()]
    _table(f"{name}: grades from 1 to 10", ["category", *(title.replace("_", " ") for title in titles)], rows)


def _mean(entry: Mapping[str, Any]) -> str:
    if entry["mean"] is None:
        return "-"
    ends = "" if entry["low"] is None else f" [{entry['low']:.2f}, {entry['high']:.2f}]"
    return f"{entry['mean']:.2f}{ends}"


def _win_rates(kind: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    overall = parts["all"]
    others = [title for title in parts if title not in ("all", "ties")]
    rows = []
    for model, entry in overall.items():
        cells = [f"{entry['wins']}, {entry['ties']}, {entry['losses']}", _share(entry["adjusted"])]
        rows.append(
            [model, *cells, *(_turn(parts[title], model) for title in others if title.startswith("turn_"))]
        )
    columns = ["model", "wins, ties, losses", "win rate, %"]
    _table(
        f"votes by {kind}; a tie counts half",
        [*columns, *(t.replace("_", " ") for t in others if t.startswith("turn_"))],
        rows,
    )
    categories = [title for title in others if not title.startswith("turn_")]
    for start in range(0, len(categories), 4):
        chosen = categories[start : start + 4]
        _table(
            "win rate, %",
            ["model", *chosen],
            [[model, *(_turn(parts[title], model) for title in chosen)] for model in overall],
        )


def _turn(part: Mapping[str, Any], model: str) -> str:
    return f"{100 * part[model]['adjusted']['mean']:.1f}" if model in part else "-"


def _share(entry: Mapping[str, Any]) -> str:
    ends = "" if entry["low"] is None else f" [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
    return f"{100 * entry['mean']:.1f}{ends}"


def _agreement(entries: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [
            " - ".join(entry["judges"]),
            str(entry["turn"]),
            "with" if entry["ties"] else "without",
            _share(entry),
            str(entry["pairs"]),
        ]
        for entry in entries
    ]
    if rows:
        _table("agreement of judges", ["judges", "turn", "ties", "equal, %", "pairs of votes"], rows)
