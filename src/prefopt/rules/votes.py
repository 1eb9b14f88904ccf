"""Votes of judges on pairs of models: win rates per model, agreement of judges with each other (2306.05685). Pure.

A vote names the better of two models in one turn of one question. Intervals are 95%; votes on one question are not independent, so
questions are the groups.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.rules.intervals import share_interval
from prefopt.rules.student import t_quantile

INCONSISTENT = "tie (inconsistent)"  # the two orders name different answers
WINNERS = ("model_a", "model_b", "tie", INCONSISTENT)


@dataclass(frozen=True)
class Vote:
    """winner: one of WINNERS."""

    judge: str
    question: Hashable
    turn: int
    model_a: str
    model_b: str
    winner: str

    @property
    def share(self) -> float:
        """Of the first model: 1, 0.5 or 0."""
        return {"model_a": 1.0, "model_b": 0.0}.get(self.winner, 0.5)


def mean_interval(values: Sequence[float | int], groups: Sequence[Hashable]) -> dict[str, Any]:
    """Mean with its 95% t interval, variance between groups: `{"mean", "low", "high", "n"}`; n counts groups."""
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    given = np.asarray(values, dtype=np.float64)
    places: dict[Hashable, int] = {}
    numbers = [places.setdefault(group, len(places)) for group in groups]
    n, mean = len(places), float(given.mean())
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    spread = float((np.bincount(numbers, given - mean) ** 2).sum())
    half = t_quantile(n - 1) * math.sqrt(spread * n / (n - 1)) / len(given)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def win_rates(votes: Sequence[Vote]) -> dict[str, dict[str, Any]]:
    """Model -> wins, ties, losses, `win_rate` (wins over all) and `adjusted` (a tie counts half) with its interval, best first."""
    found: dict[str, list[tuple[float, Hashable]]] = {}
    for vote in votes:
        found.setdefault(vote.model_a, []).append((vote.share, vote.question))
        found.setdefault(vote.model_b, []).append((1.0 - vote.share, vote.question))
    rates: dict[str, dict[str, Any]] = {}
    for model, own in found.items():
        shares = [share for share, _ in own]
        rates[model] = {
            "wins": shares.count(1.0),
            "ties": shares.count(0.5),
            "losses": shares.count(0.0),
            "win_rate": shares.count(1.0) / len(shares),
            "adjusted": share_interval(shares, [question for _, question in own]),
        }
    return dict(sorted(rates.items(), key=lambda item: (-item[1]["adjusted"]["mean"], item[0])))


def judge_kind(name: str) -> str:
    """Judges that differ by a number at the end are of one kind: `expert_17` is `expert`."""
    return re.sub(r"[_-]?\d+$", "", name) or name


def agreement(votes: Sequence[Vote], one: str, other: str, *, ties: bool) -> dict[str, Any]:
    """How often a vote of kind `one` and a vote of kind `other` on the same pair, question and turn are equal, with interval.

    ties: they count, and are equal to each other (setup S1 of 2306.05685, table 5); else pairs with a tie are left out (S2).
    One kind with itself: all pairs of its votes. `pairs` counts the pairs of votes.
    """
    cells: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for vote in votes:
        turned = vote.model_a > vote.model_b
        key = (vote.question, vote.turn, *sorted((vote.model_a, vote.model_b)))
        share = 1.0 - vote.share if turned else vote.share
        if ties or share != 0.5:
            cells.setdefault(key, {}).setdefault(judge_kind(vote.judge), []).append(share)
    equal, questions = [], []
    for key, kinds in cells.items():
        first, second = kinds.get(one, []), kinds.get(other, [])
        for k, share in enumerate(first):
            for against in first[k + 1 :] if one == other else second:
                equal.append(float(share == against))
                questions.append(key[0])
    return {**share_interval(equal, questions), "pairs": len(equal)}
