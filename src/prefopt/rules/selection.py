"""Reference-gap selection: scores of pairs and rules that keep a part of them (after 2501.15109).

N pairs; scores [N] in nats (or nats per token); NaN marks a pair that has no score. A rule sees the scores of one
stratum from the highest to the lowest and says which to keep, so a new rule is one function and one row of `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, digests, failure, origin_of, told
from prefopt.rules.order import Picked, hash_order, score_order

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]
Keep = TypeVar("Keep", bound=Callable[..., Any])
KIND = "rule"


def gap_sum(ref_chosen: Scores, ref_rejected: Scores) -> Scores:
    """log ref(y_w|x) - log ref(y_l|x), [N] nats. Not finite in: NaN out."""
    with np.errstate(invalid="ignore"):
        return _finite(ref_chosen - ref_rejected)


def gap_mean(
    ref_chosen: Scores, ref_rejected: Scores, chosen_tokens: Scores, rejected_tokens: Scores
) -> Scores:
    """log ref(y_w|x)/|y_w| - log ref(y_l|x)/|y_l|, [N] nats per token. Not finite in, or no token: NaN out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _finite(ref_chosen / chosen_tokens - ref_rejected / rejected_tokens)


def _finite(x: Scores) -> Scores:
    return np.where(np.isfinite(x), x, np.nan)


@dataclass(frozen=True)
class Rule:
    """`keep(scores, count, limit)`: scores [n] high to low, pairs to keep, threshold -> mask [n].

    needs_score: ranked by score, else by a seeded hash of the id. cut: the fixed score where a value rule cuts
    ("limit": the threshold), None where the cut follows from the scores.
    """

    keep: Callable[[Scores, int, float], Mask]
    about: str
    needs_score: bool = True
    cut: float | str | None = None


def _top(scores: Scores, count: int, limit: float) -> Mask:
    return np.arange(len(scores)) < count


def _bottom(scores: Scores, count: int, limit: float) -> Mask:
    return np.arange(len(scores)) >= len(scores) - count


def _middle(scores: Scores, count: int, limit: float) -> Mask:
    rank = np.arange(len(scores)) - (len(scores) - count) // 2
    return (rank >= 0) & (rank < count)


def _two_tailed(scores: Scores, count: int, limit: float) -> Mask:
    low = count // 2  # an odd count gives the high tail one more
    return _top(scores, count - low, limit) | _bottom(scores, low, limit)


def _positive(scores: Scores, count: int, limit: float) -> Mask:
    return scores > 0.0


def _threshold(scores: Scores, count: int, limit: float) -> Mask:
    return scores >= limit


def _all(scores: Scores, count: int, limit: float) -> Mask:
    return np.ones(len(scores), dtype=np.bool_)


RULES: dict[str, Rule] = {
    "top": Rule(_top, "the `fraction` with the highest score"),
    "bottom": Rule(_bottom, "the `fraction` with the lowest score"),
    "middle": Rule(_middle, "the `fraction` around the median"),
    "two_tailed": Rule(_two_tailed, "half of the `fraction` from either end"),
    "positive": Rule(_positive, "every score above 0", cut=0.0),
    "threshold": Rule(_threshold, "every score of at least `threshold`", cut="limit"),
    "random": Rule(_top, "a seeded random `fraction`", needs_score=False),
    "all": Rule(_all, "every pair", needs_score=False),
}


def register_rule(
    name: str, about: str = "", *, needs_score: bool = True, cut: float | str | None = None
) -> Callable[[Keep], Keep]:
    """Decorator: `keep(scores, count, limit)` is a rule of selection under `name`, checked on a few scores.

    scores [n] high to low, count: pairs that `fraction` comes to, limit: `threshold`; gives a mask [n]. needs_score,
    cut: as in `Rule`.

    Raises:
        PrefoptError: the name is taken, or the function gives no mask [n] for n from 0 on.
    """

    def register(keep: Keep) -> Keep:
        _check_rule(name, keep)
        found = Rule(keep, about or (keep.__doc__ or "").partition("\n")[0], needs_score, cut)
        add_part(KIND, name, keep, found, RULES)
        return keep

    return register


def _check_rule(name: str, keep: Callable[..., Any]) -> None:
    origin = origin_of(keep)
    for scores in (np.empty(0), np.array([0.5]), np.array([1.5, 0.2, 0.0, -3.0])):
        try:
            mask = np.asarray(keep(scores.copy(), (len(scores) + 1) // 2, 0.0))
        except Exception as error:
            raise failure(f"rule {name!r}", error, origin) from error
        if mask.dtype != np.bool_ or mask.shape != scores.shape:
            raise PrefoptError(
                f"{origin}: rule {name!r}: gave {mask.dtype} {list(mask.shape)} for {len(scores)} scores; give a mask of "
                "True and False, one per score"
            )


def rule_digests(name: str) -> list[str]:
    """Digest of the plug-in whose rule this is; for the key of a stage."""
    return digests(KIND, [name])


def find_rule(name: str) -> Rule:
    """The rule of this name; PrefoptError names the nearest known one."""
    if name not in RULES:
        raise PrefoptError(f"unknown selection rule {name!r}, {nearest(name, RULES)}")
    return RULES[name]


def choose(
    scores: Scores,
    ids: Sequence[str],
    rule: str,
    *,
    fraction: float = 0.4,
    limit: float = 0.0,
    seed: int = 0,
    strata: Sequence[str] | NDArray[np.object_] | None = None,
) -> tuple[Mask, dict[str, list[float]]]:
    """Which of N pairs a rule keeps, and the cut scores per stratum ("" without strata).

    A pure function of the set of (id, score, stratum), the rule and the seed: ties are broken by id. A pair with score
    NaN is never kept by a rule that needs scores. With `strata` [N] every stratum is ranked by itself and keeps its
    share; shares are rounded by largest remainder, so the total is that of an unstratified selection.
    """
    chosen_rule = find_rule(rule)
    eligible = np.isfinite(scores) if chosen_rule.needs_score else np.ones(len(ids), dtype=np.bool_)
    names = np.array(strata if strata is not None else [""] * len(ids), dtype=object)
    members = {name: np.flatnonzero(eligible & (names == name)) for name in sorted(set(names[eligible]))}
    counts = quotas({name: len(where) for name, where in members.items()}, fraction)
    kept = np.zeros(len(ids), dtype=np.bool_)
    cuts: dict[str, list[float]] = {}
    for name, where in members.items():
        own_ids = Picked(ids, where)
        order = score_order(scores[where], own_ids) if chosen_rule.needs_score else hash_order(own_ids, seed)
        ranked = scores[where][order]
        with told(KIND, rule):
            mask = np.asarray(chosen_rule.keep(ranked, counts[name], limit), dtype=np.bool_)
        kept[where[order[mask]]] = True
        cuts[name] = _cuts(chosen_rule, ranked, mask, limit)
    return kept, cuts


def quotas(sizes: dict[str, int], fraction: float) -> dict[str, int]:
    """How many to keep of each stratum: fraction * size, rounded by largest remainder to the rounded total.

    Halves round up and the total is at least 1. Equal remainders: the larger stratum first, then by name.
    """
    shares = {name: round(fraction * size, 9) for name, size in sizes.items()}  # 0.29 * 100 is 28.999...
    total = max(1, math.floor(round(fraction * sum(sizes.values()), 9) + 0.5)) if sizes else 0
    counts = {name: math.floor(share) for name, share in shares.items()}
    by_need = sorted(sizes, key=lambda name: (counts[name] - shares[name], -sizes[name], name))
    for name in by_need[: max(0, total - sum(counts.values()))]:
        counts[name] += 1
    return counts


def _cuts(rule: Rule, ranked: Scores, mask: Mask, limit: float) -> list[float]:
    """Scores of the kept pairs beside which dropped ones lie, rising."""
    if not rule.needs_score:
        return []
    if rule.cut is not None:
        return [limit if rule.cut == "limit" else float(rule.cut)]
    edges = np.flatnonzero(mask[1:] != mask[:-1])
    return sorted(float(ranked[i] if mask[i] else ranked[i + 1]) for i in edges)
