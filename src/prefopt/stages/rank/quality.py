"""What verdicts are worth: swap consistency, ties, position and length bias, cycles, agreement with gold. JSON-able figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.judges import Winner
from prefopt.judges.recorded import COLUMNS, models_of, votes_of
from prefopt.rules.content import text_of
from prefopt.rules.intervals import share_interval
from prefopt.rules.standing import standing
from prefopt.rules.tournament import FLIPPED, Outcome, cycles, wins_matrix
from prefopt.stages.rank.comparer import Comparer, Contest, Played
from prefopt.tables.records import Row

DECIDED = ("a", "b")
GOLD = ("human_votes", "is_correct", "score", "rank")
# what a recorded judge decides by -> gold that says the same (a reader may make `score` of `rank`)
OWN = {"majority": ("human_votes",), "rank": ("rank", "score"), "score": ("rank", "score")}
FLIP: dict[str, Winner] = {"first": "second", "second": "first", "tie": "tie"}


def quality_of(comparer: Comparer, contests: Sequence[Contest], played: Sequence[Played]) -> dict[str, Any]:
    """All figures of a run of comparisons. A rate is null where there is nothing to take it of.

    tie_rate: of the comparisons with a verdict. agreement: share of the comparisons decided both by the judge and by gold
    where they name the same answer; kappa (Cohen) counts ties as a third verdict; both by the first gold source found.
    length_bias: share of decided comparisons won by the longer answer.
    """
    outcomes = [o for game in played for o in game.outcomes.values()]
    counts = Counter(outcomes)
    known = len(outcomes) - counts["missing"]
    source = getattr(comparer.judge, "source", None)
    by_gold = agreements(contests, played, skip=source)
    first = next(iter(by_gold), None)
    found = by_gold[first] if first else {}
    return {
        "judge": comparer.judge.describe(),
        "comparisons": comparer.counts.comparisons,
        "calls": comparer.counts.calls,
        "calls_reused": comparer.counts.reused,
        "rounds": comparer.counts.rounds,
        "retried": comparer.counts.retried,
        "missing": counts["missing"],
        "missing_rate": _share(counts["missing"], len(outcomes)),
        "unparsed": sum(row["winner"] == "unparsed" for row in comparer.verdicts),
        "tie_rate": _share(counts["tie"], known),
        **call_rates(comparer.verdicts, both_orders=comparer.judge.both_orders),
        "agreement": found.get("agreement", {}).get("mean"),
        "kappa": found.get("kappa"),
        "agreement_with": first,
        "agreement_by": by_gold,
        "length_bias": length_bias(contests, played),
        "tokens": {
            name: sum(row[name] or 0 for row in comparer.verdicts)
            for name in ("prompt_tokens", "completion_tokens")
        },
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def call_rates(verdicts: Sequence[Mapping[str, Any]], *, both_orders: bool) -> dict[str, Any]:
    """swap_consistency: share of the pairs asked in both orders whose two verdicts agree (ties agree with ties).

    first_slot_rate: share of the calls with a winner that name the first answer. Null where orders are not known.
    """
    if not both_orders:
        return {"swap_consistency": None, "first_slot_rate": None}
    last: dict[tuple[str, str, str], str] = {}
    for row in verdicts:  # a second attempt follows the first
        last[row["prompt_id"], row["first_id"], row["second_id"]] = row["winner"]
    same = both = 0
    for (prompt_id, first, second), winner in last.items():
        other = last.get((prompt_id, second, first))
        if first < second and winner in FLIP and other in FLIP:
            both += 1
            same += FLIP[winner] == other
    slots = Counter(winner for winner in last.values() if winner in ("first", "second"))
    return {
        "swap_consistency": _share(same, both),
        "first_slot_rate": _share(slots["first"], slots.total()),
    }


def cycle_figures(contests: Sequence[Contest], played: Sequence[Played]) -> dict[str, Any]:
    """3-cycles among the triples of answers whose three comparisons all have a winner; 1/4 for a judge that guesses."""
    totals = [cycles(len(c.rows), game.outcomes) for c, game in zip(contests, played, strict=True)]
    found, complete = (sum(pair[i] for pair in totals) for i in (0, 1))
    return {"cycle_rate": _share(found, complete), "cyclic_triples": found, "complete_triples": complete}


def winner_agreement(
    contests: Sequence[Contest], played: Sequence[Played], whole: Sequence[Played]
) -> dict[str, dict[str, Any]]:
    """How often a strategy's best has the highest Copeland share of all comparisons (`whole`), with interval.

    known: over the pairs with a verdict. complete: prompts where every pair has one.
    """
    hits: dict[str, list[float]] = {"known": [], "complete": []}
    for contest, game, all_pairs in zip(contests, played, whole, strict=True):
        if game.final is None or all_pairs.final is None:
            continue
        key = standing(wins_matrix(len(contest.rows), all_pairs.outcomes), "copeland").key
        hit = float(key[game.final.best][0] >= max(place[0] for place in key))
        hits["known"].append(hit)
        if "missing" not in all_pairs.outcomes.values():
            hits["complete"].append(hit)
    return {name: share_interval(found) for name, found in hits.items()}


def agreements(
    contests: Sequence[Contest], played: Sequence[Played], skip: str | None = None
) -> dict[str, dict[str, Any]]:
    """Gold source -> agreement (with interval; prompts are the groups), kappa, pairs. `skip`: the judge's own source."""
    found = {}
    for source in GOLD:
        if source in OWN.get(skip or "", (skip,)):
            continue
        pairs: list[tuple[str, Outcome, Outcome]] = []
        for contest, game in zip(contests, played, strict=True):
            for (a, b), outcome in game.outcomes.items():
                gold = gold_outcome(source, contest.rows[a], contest.rows[b])
                if gold is None or outcome == "missing":
                    continue
                swap = contest.rows[a]["id"] > contest.rows[b]["id"]  # one orientation, whoever asked
                pairs.append(
                    (contest.prompt_id, *((FLIPPED[outcome], FLIPPED[gold]) if swap else (outcome, gold)))
                )
        decided = [pair for pair in pairs if pair[1] in DECIDED and pair[2] in DECIDED]
        if pairs:
            found[source] = {
                "agreement": share_interval(
                    [float(o == g) for _, o, g in decided], [p for p, _, _ in decided]
                ),
                "kappa": kappa([(o, g) for _, o, g in pairs]),
                "pairs": len(pairs),
                "decided": len(decided),
            }
    return found


def gold_outcome(source: str, one: Row, other: Row) -> Outcome | None:
    """What gold says of two answers of a prompt; None where it says nothing."""
    if source == "human_votes":
        entries = [e for e in one.get("judgments") or () if isinstance(e, Mapping) and e.get("human_votes")]
        table = votes_of(entries) if entries else {}
        found = [
            table[pair]
            for pair in ((m, n) for m in models_of(one) for n in models_of(other))
            if pair in table
        ]
        winner = found[0].winner if found else None
        return {"first": "a", "second": "b", "tie": "tie"}.get(winner or "")  # type: ignore[return-value]
    values = one.get(source), other.get(source)
    if any(isinstance(v, str) or v is None or not math.isfinite(v) for v in values):
        return None
    difference = COLUMNS[source] * (float(values[0]) - float(values[1]))  # type: ignore[arg-type]
    return "tie" if difference == 0 else "a" if difference > 0 else "b"


def kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Cohen's kappa of two raters: (observed - expected) / (1 - expected) agreement; None where it is not defined."""
    if not pairs:
        return None
    n = len(pairs)
    one, other = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(one[c] * other[c] for c in one) / (n * n)
    observed = sum(a == b for a, b in pairs) / n
    return (observed - expected) / (1 - expected) if expected < 1 else None


def length_bias(contests: Sequence[Contest], played: Sequence[Played]) -> dict[str, Any]:
    """Share of decided comparisons of answers of unequal length (characters) won by the longer, with interval."""
    longer, groups = [], []
    for contest, game in zip(contests, played, strict=True):
        lengths = [len(text_of(row["completion"])) for row in contest.rows]
        for (a, b), outcome in game.outcomes.items():
            if outcome in DECIDED and lengths[a] != lengths[b]:
                longer.append(float((lengths[a] > lengths[b]) == (outcome == "a")))
                groups.append(contest.prompt_id)
    return share_interval(longer, groups)
