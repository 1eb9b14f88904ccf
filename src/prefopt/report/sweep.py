"""What a sweep tried and chose: lines for the terminal, and the table of all candidates for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefopt.report.text import percent, percent_interval

FIGURES = {
    "sampled": "sampled accuracy",
    "greedy": "greedy accuracy",
    "pairs": "accuracy on tuning pairs",
    "score": "mean score",
}
Sweep = Mapping[str, Any]


def sweep_lines(sweep: Sweep | None) -> list[str]:
    """An arm each: what was chosen, by what figure, out of how many; and where it is the end of a scale."""
    return [_line(sweep, arm) for arm in sweep["arms"]] if sweep else []


def _line(sweep: Sweep, arm: str) -> str:
    found = sweep["arms"][arm]
    candidates = found["candidates"]
    if len(candidates) == 1:
        return f"{arm}: not tuned"
    chosen = next(one for one in candidates if one["name"] == found["chosen"])
    said = f"{arm}: {shown_settings(chosen['settings'])} ({FIGURES[sweep['figure']]} {_mean(sweep, chosen)}, best of {len(candidates)})"
    failed = sum("failed" in one for one in candidates)
    ends = list(_ends(chosen["settings"], [one["settings"] for one in candidates]))
    said += f"; {failed} ended in no number" if failed else ""
    return f"{said}; {', '.join(ends)}: the best may lie beyond" if ends else said


def _ends(chosen: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The settings whose chosen value is the least or largest of at least three numbers."""
    for key, value in chosen.items():
        values = {one[key] for one in tried if isinstance(one.get(key), int | float)}
        if len(values) >= 3 and value in (min(values), max(values)):
            yield f"{key} is the {'least' if value == min(values) else 'largest'} tried"


def shown_settings(settings: Mapping[str, Any]) -> str:
    """Settings for reading: `train.learning_rate 1e-05, train.beta 0.1`."""
    return ", ".join(f"{key} {shown_value(value)}" for key, value in settings.items()) or "as in the recipe"


def shown_value(value: Any) -> str:
    """A value for reading, as YAML would have it."""
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _mean(sweep: Sweep, one: Mapping[str, Any]) -> str:
    return f"{one['mean']:.3g}" if sweep["figure"] == "score" else percent(one["mean"])


def _interval(sweep: Sweep, one: Mapping[str, Any]) -> str:
    if one["low"] is None:
        return ""
    return f"[{one['low']:.3g}, {one['high']:.3g}]" if sweep["figure"] == "score" else percent_interval(one)


def sweep_view(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section of the page; None of a run without a sweep."""
    sweep = summary.get("sweep")
    if not sweep:
        return None
    rows = []
    for arm, found in sweep["arms"].items():
        for one in found["candidates"] if len(found["candidates"]) > 1 else ():
            rows.append({
                "arm": arm, "settings": shown_settings(one["settings"]), "chosen": one["name"] == found["chosen"],
                "mean": _mean(sweep, one) if "mean" in one else None,
                "interval": _interval(sweep, one) if "mean" in one else "", "failed": one.get("failed"),
            })  # fmt: skip
    prompts = max(
        (one["n"] for found in sweep["arms"].values() for one in found["candidates"] if "n" in one), default=0
    )
    return {
        "figure": FIGURES[sweep["figure"]], "seed": sweep["seed"], "prompts": prompts, "rows": rows,
        "lines": sweep_lines(sweep),
    }  # fmt: skip
