"""From completions to groups (one per prompt), and from what was chosen in them to the rows of 03."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prefopt.rules.content import is_empty, same
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.records import Row

COUNTS = ("n", "n_correct", "n_incorrect", "n_unparsed")
STATISTICS = (*COUNTS, "n_distinct", "answer_entropy", "majority_share")
ADDS = (
    *("id", "prompt_id", "prompt", "split", "chosen", "rejected", "chosen_id", "rejected_id"),
    *("score_chosen", "score_rejected", "margin", *COUNTS, "n_rejected_class", "n_pairs"),
)
NOT_CARRIED = ("id", "judgments")  # of the prompt's columns; verdicts stand in a file of their own


@dataclass(frozen=True)
class Group:
    """One prompt: its usable completions in order of id, and how many samples each answer class has."""

    prompt_id: str
    rows: tuple[Row, ...]
    class_sizes: Mapping[int, int]


@dataclass(frozen=True)
class Outcome:
    """Pairs (chosen row, rejected row) made of one prompt, or the reason why there is none."""

    pairs: Sequence[tuple[Row, Row]] = ()
    reason: str = ""


@dataclass
class Tally:
    """What was left out: rows by reason (dropped), prompts by outcome."""

    context: Context
    dropped: dict[str, int] = field(default_factory=dict)
    prompts: Counter[str] = field(default_factory=Counter)

    def fault(self, reason: str, row: Row) -> None:
        """Count a row that cannot be used; an error when strict."""
        self.context.drop(self.dropped, reason, f"rank: row {row['id']!r}")

    def spare(self, reason: str) -> None:
        """Count a row that is in order but not needed."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def groups_of(rows: Iterable[Row], verdict: str | None, tally: Tally) -> list[Group]:
    """Prompts in order of first appearance; empty, repeated and (`verdict`) unjudged completions are left out, counted.

    The kept one of equal texts names the models of the others in `same_text`.
    """
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    groups = []
    for prompt_id, members in by_prompt.items():
        usable = _usable(members, verdict, tally)
        sizes = Counter(row["answer_class"] for row in members if row.get("answer_class") is not None)
        if usable:
            groups.append(Group(prompt_id, tuple(usable), sizes))
        else:
            tally.prompts["no usable answer"] += 1
    return groups


def _usable(members: Sequence[Row], verdict: str | None, tally: Tally) -> list[Row]:
    kept: dict[str, Row] = {}
    for row in sorted(members, key=lambda row: row["id"]):
        value = 0.0 if verdict is None else row[verdict]
        if is_empty(row["completion"]):
            tally.fault("empty completion", row)
        elif value is None or not np.isfinite(value):
            tally.fault(f"no {verdict}", row)
        elif (text := row["completion"].strip()) in kept:
            tally.spare("duplicate completion")
            if row.get("model") is not None:
                kept[text] = {**kept[text], "same_text": [*kept[text].get("same_text", ()), row["model"]]}
        else:
            kept[text] = row
    return list(kept.values())


def prompt_columns(rows: Sequence[Row]) -> list[str]:
    """Columns that describe the prompt: the vocabulary's, statistics, and the user's own that no prompt varies."""
    if not rows:
        return []
    own = [name for name in rows[0] if name not in COLUMNS]
    first: dict[str, Row] = {}
    for row in rows:
        start = first.setdefault(row["prompt_id"], row)
        own = [name for name in own if row[name] == start[name]]
    known = [
        name
        for name in rows[0]
        if name in COLUMNS and COLUMNS[name].stage == "data" and name not in NOT_CARRIED
    ]
    return [*known, *(name for name in STATISTICS if name in rows[0]), *own]


def pair_rows(
    groups: Sequence[Group], outcomes: Sequence[Outcome], columns: Sequence[str], tally: Tally
) -> list[Row]:
    """Rows of 03 from the outcomes of the prompts."""
    made = []
    for group, outcome in zip(groups, outcomes, strict=True):
        usable = []
        for chosen, rejected in outcome.pairs:
            if same(chosen["completion"], rejected["completion"]):
                tally.fault("chosen equals rejected", rejected)
            else:
                usable.append((chosen, rejected))
        if outcome.pairs and not usable:
            tally.prompts.subtract(["paired"])
            tally.prompts["chosen equals rejected"] += 1
        for number, (chosen, rejected) in enumerate(usable):
            pair = {name: chosen[name] for name in columns}
            pair |= _sides(chosen, rejected, group)
            made.append({**pair, "id": f"{group.prompt_id}-{number}", "n_pairs": len(usable)})
    return made


def _sides(chosen: Row, rejected: Row, group: Group) -> Row:
    conversation = isinstance(chosen["prompt"], list)
    sides: Row = {}
    for side, row in (("chosen", chosen), ("rejected", rejected)):
        text = row["completion"]
        sides[side] = [{"role": "assistant", "content": text}] if conversation else text
        sides[f"{side}_id"] = row["id"]
        sides[f"score_{side}"] = row.get("score")
    sides["margin"] = _margin(sides)
    answer_class = rejected.get("answer_class")
    sides["n_rejected_class"] = None if answer_class is None else group.class_sizes[answer_class]
    return sides


def _margin(pair: Row) -> float | None:
    scores = pair.get("score_chosen"), pair.get("score_rejected")
    return None if None in scores else scores[0] - scores[1]  # type: ignore[operator]


def given_pairs(rows: Iterable[Row], limit: int | None, tally: Tally) -> list[Row]:
    """Rows that are pairs already: checked, cut to `limit` per prompt (by id), with margin and n_pairs."""
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        if is_empty(row["chosen"]) or is_empty(row["rejected"]):
            tally.fault("empty answer", row)
        elif same(row["chosen"], row["rejected"]):
            tally.fault("chosen equals rejected", row)
        else:
            by_prompt.setdefault(row["prompt_id"], []).append(row)
    pairs = []
    for members in by_prompt.values():
        kept = sorted(members, key=lambda row: row["id"])[:limit]
        for _ in members[len(kept) :]:
            tally.spare("more than pairs_per_prompt")
        tally.prompts["paired"] += 1
        for row in kept:
            margin = row.get("margin") if row.get("margin") is not None else _margin(row)
            pairs.append({**row, "margin": margin, "n_pairs": len(kept)})
    return pairs
