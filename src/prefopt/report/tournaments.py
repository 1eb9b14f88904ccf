"""Comparisons by a pairwise judge: what the judge is worth, and the tournaments of the first prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.report.load import RunData
from prefopt.report.text import hundredths, number, percent, plain
from prefopt.tables.records import Row, rows_of
from prefopt.tables.table_rows import read_table

MOST_PROMPTS = 12
MOST_ANSWERS = 12  # of a prompt; of more, the first and the last six by rank
LONGEST = 600  # characters of an answer or of the judge's words
# verdict on the row's answer -> its mark: named, the other named, tie, no verdict, not readable
MARKS = {"mine": "▲", "other": "▽", "tie": "=", "missing": "–", "unparsed": "?"}
GOLD = {
    "human_votes": "human votes",
    "is_correct": "the verifier",
    "score": "the scores",
    "rank": "the ranks",
}
SAID = {"mine": "wins", "other": "loses", "tie": "ties", "missing": "no verdict", "unparsed": "unreadable"}


def comparisons(run: RunData) -> dict[str, Any] | None:
    """Figures of the judge and the first tournaments of the main arm; None where stage 03 asked no judge."""
    quality = run.quality(run.main, "rank")
    folder = run.stage(run.main, "rank")
    if folder is None or quality.get("comparisons") is None:
        return None
    try:
        ranked, verdicts = (
            rows_of(read_table(folder.path / f"{name}.parquet")) for name in ("ranked", "verdicts")
        )
    except PrefoptError:  # the figures stand in the manifest all the same
        ranked, verdicts = [], []
    return {
        "about": _about(quality),
        "figures": _figures(quality),
        "prompts": _prompts(run, ranked, verdicts),
        "total": len({row["prompt_id"] for row in ranked}),
    }


def _about(quality: Mapping[str, Any]) -> str:
    judge = quality.get("judge") or {}
    words = [str(judge[name]) for name in ("kind", "name", "source", "model") if judge.get(name)]
    return (
        f"Strategy {quality.get('strategy', '')}, judge {', '.join(dict.fromkeys(words)) or 'unknown'}: "
        f"{number(quality.get('comparisons'))} comparisons of two answers in {number(quality.get('calls'))} calls"
        + (
            f", {number(quality['calls_reused'])} more taken from earlier runs."
            if quality.get("calls_reused")
            else "."
        )
    )


def _figures(quality: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, value, note) of each figure that the run has."""
    rates = [
        ("swap consistency", "swap_consistency", "both orders name the same answer"),
        ("ties", "tie_rate", "of the comparisons with a verdict"),
        ("first slot", "first_slot_rate", "calls that name the answer shown first; 50% is fair"),
        ("3-cycles", "cycle_rate", f"of triples, from {quality.get('cycles_from', 'complete triples')}; a guess gives 25%"),
        ("without a verdict", "missing_rate", "of the comparisons"),
    ]  # fmt: skip
    found = [
        (label, percent(quality[name]), note)
        for label, name, note in rates
        if quality.get(name) is not None and not (name == "missing_rate" and quality[name] == 0)
    ]
    whole = (quality.get("winner_agreement") or {}).get("known") or {}
    if whole.get("mean") is not None:
        note = f"of prompts: the best is that of all known comparisons too{_interval(whole)}"
        found.append(("best of all", percent(whole["mean"]), note))
    if quality.get("agreement") is not None and quality.get("agreement_with") in GOLD:
        source = GOLD[quality["agreement_with"]]
        entry = (quality.get("agreement_by") or {}).get(quality.get("agreement_with") or "") or {}
        interval = _interval(entry.get("agreement"))
        found.append(("agreement", percent(quality["agreement"]), f"with {source}{interval}, decided pairs"))
    if quality.get("kappa") is not None:
        found.append(("Cohen's kappa", hundredths(quality["kappa"]), "ties are a third verdict"))
    longer = quality.get("length_bias") or {}
    if longer.get("mean") is not None:
        found.append(
            ("longer answer wins", percent(longer["mean"]), f"of decided comparisons{_interval(longer)}")
        )
    if quality.get("unparsed"):
        found.append(("unreadable", number(quality["unparsed"]), "answers of the judge without a verdict"))
    return found


def _interval(share: Mapping[str, Any] | None) -> str:
    if not share or share.get("low") is None:
        return ""
    return f" [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


# ---- the tournaments


def _prompts(run: RunData, ranked: Sequence[Row], verdicts: Sequence[Row]) -> list[dict[str, Any]]:
    answers: dict[str, list[Row]] = {}
    for row in ranked:
        if row["prompt_id"] in answers or len(answers) < MOST_PROMPTS:
            answers.setdefault(row["prompt_id"], []).append(row)
    calls: dict[str, list[Row]] = {name: [] for name in answers}
    for row in verdicts:
        if row["prompt_id"] in calls:
            calls[row["prompt_id"]].append(row)
    asked = _asked(run, answers)
    pairs = run.rows(run.main, "rank", ("chosen_id", "rejected_id"))
    ends = {"chosen": {row["chosen_id"] for row in pairs}, "rejected": {row["rejected_id"] for row in pairs}}
    return [
        _prompt(name, asked.get(name, ""), sorted(rows, key=lambda row: row["rank"]), calls[name], ends)
        for name, rows in answers.items()
    ]


def _asked(run: RunData, wanted: Mapping[str, Any]) -> dict[str, str]:
    for stage in ("judge", "sample", "data"):
        rows = run.rows(run.main, stage, ("prompt_id", "prompt"))
        if rows:
            return {row["prompt_id"]: plain(row["prompt"]) for row in rows if row["prompt_id"] in wanted}
    return {}


def _prompt(
    name: str, asked: str, rows: Sequence[Row], calls: Sequence[Row], ends: Mapping[str, set[str]]
) -> dict[str, Any]:
    half = MOST_ANSWERS // 2
    shown = list(rows) if len(rows) <= MOST_ANSWERS else [*rows[:half], *rows[-half:]]
    # of two attempts at a call the later one counts
    last = {(row["first_id"], row["second_id"]): row for row in calls}
    made = len({frozenset(pair) for pair in last})
    role = {row["id"]: next((side for side, ids in ends.items() if row["id"] in ids), "") for row in shown}
    several = len({row["model"] for row in rows}) > 1
    table = [
        {
            "rank": row["rank"],
            "role": role[row["id"]],
            "record": f"{row['wins']}–{row['losses']}" + (f"–{row['ties']}" if row["ties"] else ""),
            "cells": [_cell(row, other, last) for other in shown],
            "model": str(row["model"]) if several and row["model"] is not None else "",
            "text": plain(row["completion"]),
        }
        for row in shown
    ]
    return {
        "id": name,
        "prompt": asked,
        "summary": f"{number(len(rows))} answers, {number(made)} comparison{'' if made == 1 else 's'}"
        + ("" if any(role.values()) else ", no pair"),
        "table": table,
        "left_out": len(rows) - len(shown),
        "words": _words(shown, role, last),
    }


def _cell(row: Row, other: Row, calls: Mapping[tuple[str, str], Row]) -> dict[str, str] | None:
    """Verdicts of the row's answer against another, as first and as second of the two; None: the two never met."""
    if row["id"] == other["id"]:
        return {"marks": "·", "tone": "self", "label": ""}
    orders = [((row["id"], other["id"]), "first"), ((other["id"], row["id"]), "second")]
    met = [(_view(calls[key], slot), slot, calls[key]) for key, slot in orders if key in calls]
    if not met:
        return None
    winner = met[0][2].get("winner_id")
    tone = "good" if winner == row["id"] else "bad" if winner == other["id"] else "plain"
    told = ", ".join(f"{SAID[view]} shown {slot}{_chance(call, slot)}" for view, slot, call in met)
    marks = "".join(MARKS[view] for view, _, _ in met)
    return {"marks": marks, "tone": tone, "label": f"{row['rank']} against {other['rank']}: {told}"}


def _view(call: Row, slot: str) -> str:
    winner = str(call["winner"])
    if winner in ("first", "second"):
        return "mine" if winner == slot else "other"
    return winner if winner in MARKS else "unparsed"


def _chance(call: Row, slot: str) -> str:
    chance = call.get("probability")
    return "" if chance is None else f" (P {chance if slot == 'first' else 1 - chance:.2f})"


def _words(
    shown: Sequence[Row], role: Mapping[str, str], calls: Mapping[tuple[str, str], Row]
) -> list[dict[str, str]]:
    """What the judge wrote about the two ends, where it wrote more than a verdict."""
    ends = {row["id"]: row["rank"] for row in shown if role[row["id"]]}
    return [
        {"label": f"{ends[first]} first, {ends[second]} second", "text": str(call["text"])}
        for (first, second), call in calls.items()
        if first in ends and second in ends and len(str(call.get("text") or "").split()) > 1
    ]
