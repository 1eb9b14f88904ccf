"""Data variants: tables of pairs over the trajectory bank, each with one property under control and its realised figures.

A row is a pair of whole trajectories from the same start state (except `shuffled`), as indices into the bank. Written as
`name` or `name:value`:
base            expert against reference, judged without noise
noisy:p         a share p of the labels flipped (exactly round(p rows) of them)
poor_judge:eta  P(first wins) = sigmoid((R1 - R2) / eta), eta in units of return
mixed:q         a share q of the rows pairs two reference trajectories
shuffled        partners redrawn across rows: the start state no longer cancels
small:n         only n rows
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError, nearest
from prefopt.suite.data.bank import Bank


@dataclass(frozen=True)
class Kind:
    """A variant's rule for its value: whether `value` is allowed, and how the range reads."""

    allows: Callable[[float], bool] | None
    range: str = ""


KINDS: dict[str, Kind] = {
    "base": Kind(None),
    "noisy": Kind(lambda p: 0.0 <= p <= 0.5, "a share in [0, 0.5]"),
    "poor_judge": Kind(lambda eta: 0.0 < eta < math.inf, "a temperature above 0, in units of return"),
    "mixed": Kind(lambda q: 0.0 <= q <= 1.0, "a share in [0, 1]"),
    "shuffled": Kind(None),
    "small": Kind(lambda n: n >= 2 and n == int(n), "a number of rows, at least 2"),
}


@dataclass(frozen=True)
class Variant:
    """A data property: its kind and value (nan where the kind has none)."""

    kind: str
    value: float = math.nan

    def __str__(self) -> str:
        return self.kind if math.isnan(self.value) else f"{self.kind}:{self.value:g}"


def parse_variant(text: str) -> Variant:
    """`noisy:0.2` -> Variant. Raises PrefoptError for an unknown kind, a missing value or one out of range."""
    kind, colon, value = text.partition(":")
    if kind not in KINDS:
        raise PrefoptError(f"unknown data variant {kind!r}, {nearest(kind, KINDS)}")
    rule = KINDS[kind]
    if rule.allows is None:
        if colon:
            raise PrefoptError(f"data variant {text!r}: {kind} takes no value; write '{kind}'")
        return Variant(kind)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not rule.allows(number):
        raise PrefoptError(f"data variant {text!r}: write '{kind}:VALUE', VALUE {rule.range}")
    return Variant(kind, number)


@dataclass(frozen=True)
class Pairs:
    """winner, loser [M] trajectory indices; start [M] start state of the row; mixed [M] two reference trajectories."""

    winner: np.ndarray
    loser: np.ndarray
    start: np.ndarray
    mixed: np.ndarray

    def take(self, mask: np.ndarray) -> Pairs:
        """The rows under a mask or at indices."""
        return Pairs(self.winner[mask], self.loser[mask], self.start[mask], self.mixed[mask])


def make_pairs(bank: Bank, variant: Variant, rows: int, seed: int) -> Pairs:
    """`rows` pairs (or fewer: `small`) from different start states. Equal seeds share start states between variants.

    Raises:
        PrefoptError: the bank has fewer start states than rows.
    """
    if rows > bank.starts:
        raise PrefoptError(
            f"suite data: {rows} rows, but the bank has {bank.starts} start states; lower rows"
        )
    rng = np.random.default_rng([seed, 200])
    count = min(rows, int(variant.value)) if variant.kind == "small" else rows
    start = rng.permutation(bank.starts)[:rows]
    return _pairs(bank, variant, start, rng).take(np.arange(count))


def held_out_pairs(bank: Bank, variant: Variant, rows: int, seed: int) -> Pairs:
    """The pairs of all start states that `make_pairs` with the same arguments leaves, labelled by the same variant.

    Raises:
        PrefoptError: fewer than two start states are left.
    """
    start = np.random.default_rng([seed, 200]).permutation(bank.starts)[rows:]
    if len(start) < 2:
        raise PrefoptError(
            f"suite data: {rows} rows of {bank.starts} start states leave none to hold out; raise bank.starts"
        )
    return _pairs(bank, variant, start, np.random.default_rng([seed, 201]))


def _pairs(bank: Bank, variant: Variant, start: np.ndarray, rng: np.random.Generator) -> Pairs:
    """A pair per start state, by the variant's rule."""
    rows = len(start)
    slots = rng.permuted(
        np.tile(np.arange(1, bank.references + 1), (rows, 1)), axis=1
    )  # two different ones per row
    order = rng.permutation(rows)
    first, second = bank.index(start, 0), bank.index(start, slots[:, 0])
    mixed = np.zeros(rows, dtype=bool)
    if variant.kind == "mixed":
        mixed[order[: round(variant.value * rows)]] = True
        first = np.where(mixed, bank.index(start, slots[:, 1]), first)
    if variant.kind == "shuffled":
        second = second[np.roll(order, 1)[np.argsort(order)]]  # one cycle: nobody keeps the own partner
    wins = bank.returns[first] >= bank.returns[second]
    if variant.kind == "poor_judge":
        gap = (bank.returns[first] - bank.returns[second]) / variant.value
        wins = rng.random(rows) < 0.5 * (1.0 + np.tanh(0.5 * gap))  # sigmoid, without overflow
    if variant.kind == "noisy":
        wins[order[: round(variant.value * rows)]] ^= True
    return Pairs(np.where(wins, first, second), np.where(wins, second, first), start, mixed)


def figures(bank: Bank, pairs: Pairs) -> dict[str, Any]:
    """What the pairs really are: rows, share with the worse trajectory as winner, share of mixed rows, return gaps."""
    gap = bank.returns[pairs.winner] - bank.returns[pairs.loser]
    return {
        "rows": len(gap),
        "flip_rate": float(np.mean(gap < 0)),
        "mixed_share": float(np.mean(pairs.mixed)),
        "return_gap": float(np.mean(gap)),
        "absolute_return_gap": float(np.mean(np.abs(gap))),
        "winner_return": float(np.mean(bank.returns[pairs.winner])),
        "loser_return": float(np.mean(bank.returns[pairs.loser])),
    }
