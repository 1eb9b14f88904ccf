"""Ten answers before and after training, drawn by a hash of their ids, never by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefopt.report.load import RunData
from prefopt.report.sections import shown_name
from prefopt.report.text import number, plain, signed
from prefopt.stages.evaluate.figures import pair_margin
from prefopt.tables.records import Row

COUNT = 10
BASE = "base"
# right before, right after -> what to call it, and how many of ten are wanted
OUTCOMES = {
    (False, True): ("fixed by training", 4),
    (True, False): ("broken by training", 3),
    (True, True): ("right before and after", 1),
    (False, False): ("wrong before and after", 2),
}
PAIR_OUTCOMES = {
    (False, True): "ranked rightly after training",
    (True, False): "ranked wrongly after training",
    (True, True): "ranked rightly before and after",
    (False, False): "ranked wrongly before and after",
}
Both = tuple[Row, Row]


def answers(run: RunData) -> dict[str, Any] | None:
    """Test prompts with the answer of base and main arm; held-out pairs where there are none; None without either."""
    before, after = run.rows(BASE, "evaluate"), run.rows(run.main, "evaluate")
    arm = shown_name(run, run.main)
    for mode in ("sampled", "greedy"):
        both = _joined(before, after, mode)
        if both:
            drawn = draw(both, lambda pair: (bool(pair[0]["is_correct"]), bool(pair[1]["is_correct"])))
            counts = _counts(both)
            about = (
                f"Answers of base and {arm} to the same test prompts, {mode}. {counts} Drawn by a hash of the prompt's "
                "name within each outcome. Line ends are shown as ↵, tabs as →, spaces at line ends as ·."
            )
            return {"title": f"{_word(len(drawn))} before and after", "about": about,
                    "samples": [_sample(pair, arm) for pair in drawn]}  # fmt: skip
    return _pair_answers(before, after, arm)


def _word(count: int) -> str:
    return "Ten answers" if count == COUNT else f"{count} answers" if count > 1 else "One answer"


def _joined(before: Sequence[Row], after: Sequence[Row], mode: str) -> list[Both]:
    """First answers to the same prompts in a mode, where both are verified."""
    old = {row["prompt_id"]: row for row in before if _is_first(row, mode)}
    new = [row for row in after if _is_first(row, mode) and row["prompt_id"] in old]
    return [(old[row["prompt_id"]], row) for row in new]


def _is_first(row: Row, mode: str) -> bool:
    wanted = row["kind"] == "sample" and row["mode"] == mode and not row.get("completion_index")
    return bool(wanted and row.get("is_correct") is not None)


def draw(
    both: Sequence[Both], outcome: Callable[[Both], tuple[bool, bool]], count: int = COUNT
) -> list[Both]:
    """`count` of the pairs, each outcome with its share (others fill what one lacks), in order of a hash of the id.

    A prompt comes a second time only when no other is left.
    """
    groups: dict[tuple[bool, bool], list[Both]] = {key: [] for key in OUTCOMES}
    again: list[Both] = []
    seen: set[str] = set()
    for pair in sorted(both, key=_hash):
        (again if pair[1]["prompt_id"] in seen else groups[outcome(pair)]).append(pair)
        seen.add(pair[1]["prompt_id"])
    for pair in again:
        groups[outcome(pair)].append(pair)
    wanted = {key: min(len(groups[key]), share) for key, (_, share) in OUTCOMES.items()}
    for key in OUTCOMES:
        spare = count - sum(wanted.values())
        wanted[key] += min(max(spare, 0), len(groups[key]) - wanted[key])
    return [pair for key in OUTCOMES for pair in groups[key][: wanted[key]]]


def _hash(pair: Both) -> bytes:
    return hashlib.sha256(str(pair[1]["id"]).encode("utf-8", "replace")).digest()


def _counts(both: Sequence[Both]) -> str:
    tally = dict.fromkeys(OUTCOMES, 0)
    for old, new in both:
        tally[bool(old["is_correct"]), bool(new["is_correct"])] += 1
    said = ", ".join(f"{number(tally[key])} {name}" for key, (name, _) in OUTCOMES.items())
    return f"Of {number(len(both))}: {said}."


def _sample(pair: Both, arm: str) -> dict[str, Any]:
    old, new = pair
    return {
        "outcome": OUTCOMES[bool(old["is_correct"]), bool(new["is_correct"])][0],
        "id": new["prompt_id"],
        "gold": new.get("gold"),
        "prompt": plain(new["prompt"]),
        "sides": [_answer("base", old), _answer(arm, new)],
        "note": "",
    }


def _answer(label: str, row: Row) -> dict[str, Any]:
    right = bool(row["is_correct"])
    mark = "right" if right else "wrong" if row.get("answer") is not None else "no answer found"
    if row.get("finish_reason") == "length":
        mark += ", cut at the limit"
    return {"label": label, "right": right, "mark": mark, "text": row.get("completion") or ""}


# ---- held-out pairs, where nothing was sampled


def _pair_answers(before: Sequence[Row], after: Sequence[Row], arm: str) -> dict[str, Any] | None:
    old = {row["id"]: row for row in before if row["kind"] == "pair"}
    both = [(old[row["id"]], row) for row in after if row["kind"] == "pair" and row["id"] in old]
    both = [pair for pair in both if None not in (_margin(pair[0]), _margin(pair[1]))]
    if not both:
        return None
    drawn = draw(both, _ranking)
    about = (
        f"Held-out pairs, with the log-prob of the chosen minus that of the rejected answer under base and {arm}. "
        "Drawn by a hash of the pair's name within each outcome. Line ends are shown as ↵, tabs as →."
    )
    title = "Ten held-out pairs" if len(drawn) == COUNT else "Held-out pairs"
    return {"title": title, "about": about, "samples": [_pair_sample(pair, arm) for pair in drawn]}


def _margin(row: Mapping[str, Any]) -> float | None:
    return pair_margin(row, "logp")


def _ranking(pair: Both) -> tuple[bool, bool]:
    return (_margin(pair[0]) or 0.0) > 0, (_margin(pair[1]) or 0.0) > 0


def _pair_sample(pair: Both, arm: str) -> dict[str, Any]:
    old, new = pair
    sides = [
        {"label": side, "right": side == "chosen", "mark": "", "text": plain(new.get(side))}
        for side in ("chosen", "rejected")
    ]
    return {
        "outcome": PAIR_OUTCOMES[_ranking(pair)], "id": new["id"], "gold": None, "prompt": plain(new["prompt"]), "sides": sides,
        "note": f"chosen minus rejected: {signed(_margin(old))} nats under base, {signed(_margin(new))} under {arm}",
    }  # fmt: skip
