"""Tournaments of one prompt's answers: pure strategies on positions, as generators that ask for comparisons.

A strategy yields a list of pairs (a, b) that it wants compared now and is sent their outcomes: "a" or "b" won, "tie", or
"missing" where the judge has no verdict. It returns a `Final`. Whoever drives it decides where outcomes come from, so that
one driver can play all prompts in rounds. No pair is asked for twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefopt.rules.standing import Aggregate, standing

Outcome = Literal["a", "b", "tie", "missing"]
Pair = tuple[int, int]
Known = dict[Pair, Outcome]  # outcome of a against b, kept for both (a, b) and (b, a)
FLIPPED: dict[Outcome, Outcome] = {"a": "b", "b": "a", "tie": "tie", "missing": "missing"}
REASONS: dict[Outcome, str] = {
    "a": "",
    "b": "worst beats best",
    "tie": "best and worst tie",
    "missing": "no verdict on best against worst",
}


@dataclass(frozen=True)
class Final:
    """Best and worst position; reason: why they make no pair (empty where they do)."""

    best: int
    worst: int
    reason: str = ""


Moves = Generator[list[Pair], list[Outcome], Final]


def ipr(order: Sequence[int]) -> Moves:
    """King of the hill for the best, again among the others for the worst, then best against worst.

    A tie or a missing verdict keeps the incumbent. At most 2M-3 comparisons of M answers, and one more for the last check
    (up to M=5 the check is always among the earlier ones, or those were fewer).
    With a deterministic tie-free judge the Condorcet winner and loser are found where there are such, and the best is
    always in the top cycle. Rounds of one comparison each (our algorithm, after the claim of 2411.05875).
    """
    known: Known = {}
    best = yield from _king(order, known, "b")
    worst = yield from _king([i for i in order if i != best], known, "a")
    return (yield from _check(best, worst, known))


def knockout(order: Sequence[int]) -> Moves:
    """Single elimination for the best, again among the others for the worst, then best against worst.

    Neighbours meet; a tie or a missing verdict lets the first of the two pass. An odd one passes free and then stands first.
    """
    known: Known = {}
    best = yield from _bracket(order, known, "b")
    worst = yield from _bracket([i for i in order if i != best], known, "a")
    return (yield from _check(best, worst, known))


def round_robin(order: Sequence[int], aggregate: Aggregate = "copeland") -> Moves:
    """Every answer against every other in one round; best and worst by Copeland score or Bradley-Terry strength.

    Equal scores are decided by the other measure, then by `order`.
    """
    known: Known = {}
    yield from _ask(list(itertools.combinations(order, 2)), known)
    places = standing(wins_matrix(len(order), known), aggregate)
    ranked = sorted(order, key=lambda i: (places.key[i], -order.index(i)), reverse=True)
    best, worst = ranked[0], ranked[-1]
    clear = places.key[best][0] > places.key[worst][0]
    return Final(best, worst, "" if clear else "all answers are equal")


def most_comparisons(strategy: str, answers: int) -> int:
    """The largest number of comparisons that a strategy can ask for, the last check included."""
    if answers < 2:
        return 0
    pairs = answers * (answers - 1) // 2
    return pairs if strategy == "round_robin" else min(2 * answers - 2, pairs)


def least_comparisons(strategy: str, answers: int) -> int:
    """The smallest number: M-1 for the best, and for the worst as many as no earlier verdict answers."""
    return most_comparisons(strategy, answers) if strategy == "round_robin" else max(0, answers - 1)


def play(moves: Moves, compare: Callable[[int, int], Outcome]) -> tuple[Final, int]:
    """Drive one tournament by a function; returns its end and the number of comparisons made."""
    count = 0
    try:
        wanted = next(moves)
        while True:
            count += len(wanted)
            wanted = moves.send([compare(a, b) for a, b in wanted])
    except StopIteration as end:
        return end.value, count


def wins_matrix(answers: int, known: Mapping[Pair, Outcome]) -> NDArray[np.float64]:
    """W [M, M], W[i, j]: wins of i over j, a tie half for both; zero on both sides where there is no verdict."""
    wins = np.zeros((answers, answers))
    seen: set[frozenset[int]] = set()
    for (a, b), outcome in known.items():
        if outcome == "missing" or frozenset((a, b)) in seen:
            continue
        seen.add(frozenset((a, b)))
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[outcome]
        wins[a, b] += share
        wins[b, a] += 1.0 - share
    return wins


def cycles(answers: int, known: Mapping[Pair, Outcome]) -> tuple[int, int]:
    """(3-cycles, triples of answers whose three comparisons all have a winner)."""
    beats = {
        (a, b) if outcome == "a" else (b, a) for (a, b), outcome in known.items() if outcome in ("a", "b")
    }
    found = complete = 0
    for i, j, k in itertools.combinations(range(answers), 3):
        sides = [(i, j), (j, k), (k, i)]
        forward = [side in beats for side in sides]
        if all(one or side[::-1] in beats for one, side in zip(forward, sides, strict=True)):
            complete += 1
            found += all(forward) or not any(forward)
    return found, complete


def _king(
    order: Sequence[int], known: Known, replaced_on: Outcome
) -> Generator[list[Pair], list[Outcome], int]:
    """The incumbent after meeting all others; `replaced_on` is the outcome (a = incumbent) that makes the other one it."""
    incumbent = order[0]
    for challenger in order[1:]:
        (outcome,) = yield from _ask([(incumbent, challenger)], known)
        if outcome == replaced_on:
            incumbent = challenger
    return incumbent


def _bracket(
    order: Sequence[int], known: Known, passes_on: Outcome
) -> Generator[list[Pair], list[Outcome], int]:
    alive = list(order)
    while len(alive) > 1:
        meetings = list(zip(alive[::2], alive[1::2], strict=False))
        outcomes = yield from _ask(meetings, known)
        through = [b if o == passes_on else a for (a, b), o in zip(meetings, outcomes, strict=True)]
        alive = alive[2 * len(meetings) :] + through  # who passed free stands first and plays next
    return alive[0]


def _check(best: int, worst: int, known: Known) -> Moves:
    (outcome,) = yield from _ask([(best, worst)], known)
    return Final(best, worst, REASONS[outcome])


def _ask(pairs: Sequence[Pair], known: Known) -> Generator[list[Pair], list[Outcome], list[Outcome]]:
    """Outcomes of `pairs`; only what is not known is asked for."""
    wanted = [pair for pair in pairs if pair not in known]
    if wanted:
        outcomes = yield wanted
        for (a, b), outcome in zip(wanted, outcomes, strict=True):
            known[a, b], known[b, a] = outcome, FLIPPED[outcome]
    return [known[pair] for pair in pairs]
