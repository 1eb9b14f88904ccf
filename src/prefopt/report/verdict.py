"""The result of a run in plain sentences: who beats whom, by how much, and what to be careful about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

FALL = 0.2  # a fall of the chosen log-prob by more than this share of its size is worth a warning
FALLEN = "has fallen"  # the trainer's own words on the same thing, for runs without held-out pairs
_PLACED = re.compile(r"Warning \((?P<place>[^()]+)\): (?P<text>.*)", re.DOTALL)
MEASURES = {
    "accuracy": "sampled accuracy",
    "greedy": "greedy accuracy",
    "pair_accuracy": "held-out pairs ranked rightly",
}


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """One sentence per comparison of the main arm by the headline measure; then what greedy decoding says.

    A gain or a loss is clear when the 95% interval of the paired difference excludes 0.
    """
    metric, main = summary["headline"], summary["main"]
    if metric is None and summary.get("separation"):
        return [_separation(summary, arm) for arm in summary["separation"] if arm != "base"]
    if metric is None:
        return ["Nothing was measured: the run has neither test prompts nor held-out pairs."]
    rivals = (summary["paired"].get(main) or {}).items()
    said = []
    for other, changes in rivals:
        change = changes.get(metric)
        if change and change["mean"] is not None:
            said.append(_compare(summary, metric, main, other, change))
    if said:
        said[0] = f"{MEASURES[metric].capitalize()}: {said[0]}"
    if metric == "accuracy":
        said += [
            f"Greedy accuracy: {_compare(summary, 'greedy', main, other, changes['greedy'])}"
            for other, changes in rivals
            if other == "base" and changes.get("greedy")
        ]
    return said + _reward(summary)


def _compare(summary: Mapping[str, Any], metric: str, arm: str, other: str, change: Mapping[str, Any]) -> str:
    mine, theirs = summary[metric][arm]["mean"], summary[metric][other]["mean"]
    interval = f"{_points(change['mean'])} points"
    if change["low"] is not None:
        interval += f" [{_points(change['low'])}, {_points(change['high'])}]"
    return f"{arm_name(summary, arm)} {_percent(mine)} against {arm_name(summary, other)} {_percent(theirs)}: {interval}, {judgement(change)}."


def judgement(change: Mapping[str, Any]) -> str:
    """The paired difference in words: `a clear gain`, `clearly worse` or `no clear difference`; of one prompt none of them."""
    if change["low"] is None:
        return "one prompt, which says nothing of others"
    if change["low"] > 0:
        return "a clear gain"
    return "clearly worse" if change["high"] < 0 else "no clear difference"


def _separation(summary: Mapping[str, Any], arm: str) -> str:
    """Unpaired data: how often training puts a desired completion above an undesired one."""
    found = summary["separation"][arm]
    low, high = found["low"], found["high"]
    interval = f" [{_percent(low)}, {_percent(high)}]" if low is not None else ""
    return (
        f"Held-out completions: {arm_name(summary, arm)} rewards the desired one of a desired and an undesired "
        f"completion more in {_percent(found['mean'])}{interval} of such couples (50% before training)."
    )


def _reward(summary: Mapping[str, Any]) -> list[str]:
    """Pair accuracy by implicit reward, where pairs are the headline."""
    entry = ((summary.get("pair_accuracy") or {}).get(summary["main"]) or {}).get("reward")
    if summary["headline"] != "pair_accuracy" or not entry:
        return []
    low, high = entry["low"], entry["high"]
    if low is None:
        said, interval = "one prompt, which says nothing of others", "(no interval)"
    else:
        said = (
            "better than chance"
            if low > 0.5
            else "worse than chance"
            if high < 0.5
            else "not clearly off chance"
        )
        interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    who = arm_name(summary, summary["main"])
    return [
        f"By implicit reward (what training changed), {who} ranks {_percent(entry['mean'])} {interval} of the held-out "
        f"pairs rightly: {said}."
    ]


def warnings_of(summary: Mapping[str, Any]) -> list[str]:
    """Arms whose log-prob of held-out chosen answers fell by more than 20% of its size, and what the trainer saw."""
    said = []
    nats = (
        summary.get("chosen_drift") or {}
    )  # by held-out pairs; without them the trainer's own warning counts
    for arm, share in (summary.get("chosen_drift_share") or {}).items():
        if share < -FALL:
            said.append(
                f"Warning: in {arm_name(summary, arm)} the log-prob of held-out chosen answers fell by {-share:.0%} of its size "
                f"({nats[arm]:+.1f} nats per answer): some good answers became rare; a stronger budget or nll term, "
                "or a lower learning rate, limits that."
            )
    for arm, entry in summary["arms"].items():
        texts = entry.get("warnings") or []
        said += [
            f"Warning ({arm_name(summary, arm)}): {text}."
            for text in texts
            if arm not in nats or FALLEN not in text
        ]
    return said


def alike_once(warnings: Sequence[str]) -> list[str]:
    """The warnings, those that differ in place and numbers alone said once, with the other places.

    "Warning (a): 40% cut." and "Warning (b): 50% cut." become "Warning (a): 40% cut. Alike: b."
    """
    groups: dict[str, tuple[str, list[str]]] = {}
    for said in warnings:
        found = _PLACED.fullmatch(said)
        key = re.sub(r"\d[\d.,]*", "#", found["text"]) if found else said
        if key not in groups:
            groups[key] = (said, [])
        elif found:
            groups[key][1].append(found["place"])
    return [f"{said} Alike: {', '.join(others)}." if others else said for said, others in groups.values()]


def smoke_note(model: str) -> list[str]:
    """What to know about a run of the built-in smoke model; empty for other models."""
    if model != "tiny":
        return []
    return [
        "The model 'tiny' is a smoke model of about 1 M random weights: its figures show that the pipeline runs, "
        "not what a method is worth; give --model DIR for a real one."
    ]


def arm_name(summary: Mapping[str, Any], arm: str) -> str:
    """An arm's name for reading; the only arm of a recipe without arms is the trained model."""
    return "trained" if arm == "main" and len(summary["arms"]) == 1 else arm


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _points(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
