"""Part `recorded` of the ranking study: real tournaments, whose votes are the judge.

The winner of all votes is the Copeland winner over the known pairs (equal ones together). A strategy sees the same verdicts (the
majority, or the recorded judge), or one vote drawn per pair: what a single annotator would have said.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking_parts import STRATEGIES, Truth, drive, interval, look_up, truth_of

from prefopt.judges import Comparison
from prefopt.judges.recorded import RecordedJudge, votes_of
from prefopt.judges.simulated import uniforms
from prefopt.rules.order import hash_order
from prefopt.rules.tournament import Outcome, Pair
from prefopt.stages.rank.pairs import Tally, groups_of
from prefopt.tables.context import Context
from prefopt.tables.records import Row

OUTCOMES: dict[str, Outcome] = {"first": "a", "second": "b", "tie": "tie", "missing": "missing"}
MEASURES = ("winner", "loser", "inverted", "pairs", "comparisons", "share_of_round_robin")


@dataclass(frozen=True)
class Tournament:
    """One prompt: names of the answers, verdicts on every pair (i < j), and single votes where there are several."""

    name: str
    answers: tuple[str, ...]
    known: Mapping[Pair, Outcome]
    votes: Mapping[Pair, Sequence[float]]


def from_rows(rows: Sequence[Row], source: str | None, *, hub: bool = False) -> list[Tournament]:
    """Tournaments of recorded completions, equal texts taken together as `prefopt rank` does.

    Answers without any verdict by this judge are left out.
    """
    judge = RecordedJudge(source, hub=hub)
    judge.check(rows)
    found = []
    for group in groups_of(rows, None, Tally(Context())):
        known = outcomes_of(judge, group.rows)
        kept = [
            i
            for i in range(len(group.rows))
            if any(i in pair and o != "missing" for pair, o in known.items())
        ]
        answers = [group.rows[i] for i in kept]
        if answers:
            names = tuple(row["id"] for row in answers)
            found.append(Tournament(group.prompt_id, names, outcomes_of(judge, answers), _single(answers)))
    return found


def outcomes_of(judge: RecordedJudge, rows: Sequence[Row]) -> dict[Pair, Outcome]:
    """The recorded outcome of every pair of a prompt's answers."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    calls = [
        Comparison(row["prompt_id"], row["prompt"], row, rows[b])
        for row, b in ((rows[a], b) for a, b in pairs)
    ]
    return {p: OUTCOMES[v.winner] for p, v in zip(pairs, judge.compare(calls, 0), strict=True)}


def _single(rows: Sequence[Row]) -> dict[Pair, Sequence[float]]:
    """Votes of people on each pair, one by one."""
    entries = [
        {k: v for k, v in e.items() if k != "majority"}
        for e in rows[0].get("judgments") or ()
        if e.get("human_votes")
    ]
    table = votes_of(entries)
    return {
        (a, b): votes.shares
        for a, b in itertools.combinations(range(len(rows)), 2)
        if (votes := table.get((rows[a]["model"], rows[b]["model"]))) is not None
    }


def mt_bench(file: Path) -> list[Tournament]:
    """Votes per question and turn over six models; majority per pair."""
    votes = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    by_item: dict[str, list[dict[str, Any]]] = {}
    for vote in votes:
        by_item.setdefault(f"{vote['question_id']}-{vote['turn']}", []).append(vote)
    found = []
    for name, entries in sorted(by_item.items()):
        models = tuple(sorted({entry[side] for entry in entries for side in ("model_a", "model_b")}))
        table = votes_of(entries)
        pairs = list(itertools.combinations(range(len(models)), 2))
        seen = {pair: table.get((models[pair[0]], models[pair[1]])) for pair in pairs}
        known = {pair: OUTCOMES[v.winner] if v else "missing" for pair, v in seen.items()}
        found.append(Tournament(name, models, known, {pair: v.shares for pair, v in seen.items() if v}))  # type: ignore[misc]
    return found


def run_recorded(seeds: int, data: Path) -> dict[str, Any]:
    """All sets: figures of every strategy with all votes as the judge and, where people voted, with one vote per pair."""
    sets = tournaments_of(data)
    found: dict[str, Any] = {}
    for name, (tournaments, complete_only) in sets.items():
        truths = [truth_of(len(t.answers), t.known) for t in tournaments]
        kept = [(t, truth) for t, truth in zip(tournaments, truths, strict=True) if len(t.answers) > 2]
        if complete_only:
            kept = [(t, truth) for t, truth in kept if truth.complete]
        found[name] = describe(kept) | {"all votes": figures(kept, seeds, drawn=False)}
        if any(t.votes for t, _ in kept) and any(len(v) > 1 for t, _ in kept for v in t.votes.values()):
            found[name]["one vote"] = figures(kept, seeds, drawn=True)
    return {"order_seeds": seeds, "sets": found}


def tournaments_of(data: Path) -> dict[str, tuple[list[Tournament], bool]]:
    """Set -> tournaments, and whether only the complete ones count."""
    from prefopt.stages.alone import open_input
    from prefopt.tables.records import rows_of

    def rows(name: str) -> list[Row]:
        return rows_of(open_input(str(data / name), Context()).table)

    pandalm, alpaca, tldr = (
        rows(name)
        for name in (
            "pandalm/completions.jsonl",
            "alpaca_eval/completions.jsonl.gz",
            "tldr/completions.jsonl.gz",
        )
    )
    v2 = "weighted_alpaca_eval_gpt4_turbo"
    human, gpt4 = (mt_bench(data / "mt_bench" / f"{who}_votes.jsonl") for who in ("human", "gpt4"))
    return {
        "PandaLM, human votes": (from_rows(pandalm, None), False),
        "PandaLM, human votes, complete": (from_rows(pandalm, None), True),
        "MT-Bench, human votes": (human, False),
        "MT-Bench, GPT-4, complete": (gpt4, True),
        "AlpacaEval v2, known pairs": (from_rows(alpaca, v2), False),
        "AlpacaEval v2, hub": (from_rows(alpaca, v2, hub=True), True),
        "TL;DR, known pairs": (from_rows(tldr, None), False),
        "TL;DR, hub": (from_rows(tldr, None, hub=True), True),
    }


def describe(kept: Sequence[tuple[Tournament, Truth]]) -> dict[str, Any]:
    """Size of a set, how many pairs have a verdict, and what a guess would agree with."""
    pairs = [outcome for t, _ in kept for outcome in t.known.values()]
    return {
        "prompts": len(kept),
        "answers": sum(len(t.answers) for t, _ in kept) / len(kept),
        "known_share": sum(o != "missing" for o in pairs) / len(pairs),
        "tie_share": sum(o == "tie" for o in pairs) / max(1, sum(o != "missing" for o in pairs)),
        "condorcet_share": sum(truth.condorcet is not None for _, truth in kept) / len(kept),
        "winners": sum(len(truth.best) for _, truth in kept) / len(kept),
        "guess": sum(len(truth.best) / len(t.answers) for t, truth in kept) / len(kept),
    }


def figures(kept: Sequence[tuple[Tournament, Truth]], seeds: int, *, drawn: bool) -> dict[str, Any]:
    """Strategy -> measures with intervals (bootstrap over prompts of the means over order seeds).

    winner, loser: it is one of those of all votes. inverted: among the pairs made, chosen stands below rejected by all votes.
    """
    table = {}
    for name, start in STRATEGIES.items():
        values: dict[str, list[list[float]]] = {measure: [[] for _ in kept] for measure in MEASURES}
        for at, (tournament, truth) in enumerate(kept):
            size = len(tournament.answers)
            for seed in range(seeds):
                order = hash_order(tournament.answers, seed, tournament.name).tolist()
                known = one_vote(tournament, seed) if drawn else tournament.known
                end = drive(start, order, look_up(known))
                best, worst = end.final.best, end.final.worst
                values["winner"][at].append(float(best in truth.best))
                values["loser"][at].append(float(worst in truth.worst))
                values["pairs"][at].append(float(not end.final.reason))
                values["comparisons"][at].append(float(end.comparisons))
                values["share_of_round_robin"][at].append(end.comparisons / (size * (size - 1) / 2))
                if not end.final.reason:
                    values["inverted"][at].append(float(truth.score[best] < truth.score[worst]))
        table[name] = {measure: interval(rows) for measure, rows in values.items()}
    return table


def one_vote(tournament: Tournament, seed: int) -> dict[Pair, Outcome]:
    """One of the votes on each pair, drawn by a hash; missing where nobody voted."""
    outcomes: dict[Pair, Outcome] = {}
    for pair in tournament.known:
        votes = tournament.votes.get(pair)
        if not votes:
            outcomes[pair] = tournament.known[pair] if tournament.known[pair] == "missing" else "missing"
            continue
        at = int(uniforms(str(seed), tournament.name, str(pair))[0] * len(votes))
        outcomes[pair] = {1.0: "a", 0.0: "b"}.get(votes[at], "tie")  # type: ignore[assignment]
    return outcomes
