"""Statistics of verified answers: intervals, paired tests, pass@k. Pure functions on numbers; no scipy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # normal quantile of a two-sided 95% interval


def wilson(successes: float | int, n: float | int, z: float | int = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927): `(low, high)`, within 0..1; `(0, 1)` when n is 0.

    `successes` may be fractional (shares of several samples); `n` may be an effective number.
    """
    if n <= 0:
        return 0.0, 1.0
    share = min(max(successes / n, 0.0), 1.0)
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if share == 0 else (middle - half) / scale
    high = 1.0 if share == 1 else (middle + half) / scale
    return max(0.0, low), min(1.0, high)


def share_interval(values: Sequence[float | int], groups: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """Mean of outcomes (0, 1, or 0.5 for a tie) with a 95% Wilson interval: `{"mean", "low", "high", "n"}`.

    `groups` names the prompt of every outcome (default: each its own); n counts groups. Outcomes of one prompt are not
    independent, so the interval is that of the effective number of outcomes p(1-p) / var(mean), with the variance
    between groups (Kish's design effect); without groups it is the plain Wilson interval. Nulls for no outcome; of a
    single group, which says nothing of others, a mean and no interval.

    Raises:
        ValueError: lengths differ.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"one group per outcome, got {len(groups)} and {len(values)}")
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    outcomes = np.asarray(values, dtype=np.float64)
    places, n = _places(len(values), groups)
    mean = math.fsum(values) / len(values)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    binomial = mean * (1 - mean)
    # sum over groups of the squared deviation; p(1-p) N for independent outcomes of 0 and 1
    spread = float((np.bincount(places, outcomes - mean) ** 2).sum())
    effective = float(n)
    if binomial > 0:
        most = float(len(values))
        effective = (
            most if spread <= binomial * 1e-9 else min(most, max(1.0, binomial * most * most / spread))
        )
    low, high = wilson(mean * effective, effective)
    return {"mean": mean, "low": min(low, mean), "high": max(high, mean), "n": n}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k of the n samples is right: 1 - C(n-c, k) / C(n, k) (2107.03374, eq. 1).

    Raises:
        ValueError: k outside 1..n, or `correct` outside 0..n.
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(
            f"pass@k needs 1 <= k <= n and 0 <= correct <= n, got n={n}, correct={correct}, k={k}"
        )
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4 ... below n, and n itself; empty for n = 0."""
    return sorted({*(1 << i for i in range(max(n, 0).bit_length()) if 1 << i <= n), *([n] if n else [])})


def mean_pass_at_k(counts: Sequence[tuple[int, int]], ks: Sequence[int] | None = None) -> dict[str, float]:
    """`(n, correct)` per prompt -> `{"1": ..., "2": ...}`, the mean over the prompts with at least k samples.

    `ks` defaults to 1, 2, 4 ... up to the largest n; a k that no prompt reaches is left out.
    """
    most = max((n for n, _ in counts), default=0)
    found: dict[str, float] = {}
    for k in powers_of_two(most) if ks is None else ks:
        values = [pass_at_k(n, correct, k) for n, correct in counts if n >= k]
        if values:
            found[str(k)] = float(np.mean(values))
    return found


def majority_right(classes: Sequence[int], right: Collection[int]) -> float:
    """Whether the vote of the samples is right: 1, 0, or the share of right classes among those with the most votes.

    classes: of equal answers, one per sample; -1 has no answer and no vote. right: the classes that are right.
    """
    votes = Counter(number for number in classes if number >= 0)
    most = max(votes.values(), default=0)
    first = [number for number, count in votes.items() if count == most]
    return sum(number in right for number in first) / len(first) if first else 0.0


def mean_maj_at_k(
    prompts: Sequence[tuple[Sequence[int], Collection[int]]], ks: Sequence[int] | None = None
) -> dict[str, dict[str, Any]]:
    """`(classes, right)` per prompt -> `{"1": interval, "2": ...}`: accuracy of the majority of k samples (2203.11171).

    A prompt of n samples has n // k votes of its own, of samples side by side; k defaults to 1, 2, 4 ... up to the
    largest n, and a k that no prompt reaches is left out.
    """
    most = max((len(classes) for classes, _ in prompts), default=0)
    found = {}
    for k in powers_of_two(most) if ks is None else ks:
        values, names = [], []
        for name, (classes, right) in enumerate(prompts):
            for start in range(0, len(classes) - k + 1, k):
                values.append(majority_right(classes[start : start + k], right))
                names.append(name)
        if values:
            found[str(k)] = share_interval(values, names)
    return found


def _lower_tail(k: int, n: int) -> tuple[int, int]:
    """Exact integers: sum of C(n, i) for i <= k, and C(n, k)."""
    total, term = 1, 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        total += term
    return total, term


def mcnemar(gained: int, lost: int) -> dict[str, float]:
    """McNemar's test of paired yes/no outcomes: two-sided `{"exact": p, "midp": p}`.

    `gained` pairs turned from wrong to right, `lost` from right to wrong; under the null each is Binomial(n, 1/2).
    `midp` counts the observed outcome half: less conservative, still close to its level (Fagerland et al. 2013).
    """
    n = gained + lost
    if n == 0:
        return {"exact": 1.0, "midp": 1.0}
    tail, point = _lower_tail(min(gained, lost), n)
    whole = 1 << n
    return {"exact": min(1.0, 2 * tail / whole), "midp": min(1.0, (2 * tail - point) / whole)}


def paired_difference(
    before: Sequence[float | int], after: Sequence[float | int], groups: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """Mean of `after - before` over the same items with a 95% interval: `{"mean", "low", "high", "n"}`.

    One item per group (prompt) and outcomes 0 or 1: the adjusted Wald interval of Bonett and Price (2012), which adds
    one to both discordant counts and so behaves at few items and at no change. Else the normal interval with the
    variance between groups. n counts groups; nulls for no item, and no interval of a single group.

    Raises:
        ValueError: lengths differ.
    """
    if len(before) != len(after) or (groups is not None and len(groups) != len(after)):
        raise ValueError(f"paired outcomes must have equal length, got {len(before)} and {len(after)}")
    if not len(after):
        return {"mean": None, "low": None, "high": None, "n": 0}
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    places, n = _places(len(after), groups)
    mean = math.fsum(difference) / len(difference)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": n}
    if n == len(difference) and np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        gained, lost = (int((sign * difference > 0).sum()) + 1 for sign in (1, -1))
        centre = (gained - lost) / (n + 2)
        half = Z95 * math.sqrt(((gained + lost) / (n + 2) - centre * centre) / (n + 2))
    else:
        spread = float((np.bincount(places, difference - mean) ** 2).sum())
        centre = mean
        half = Z95 * math.sqrt(spread * n / (n - 1)) / len(difference)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return {"mean": mean, "low": min(low, mean), "high": max(high, mean), "n": n}


def sign_flip(differences: Sequence[float | int], seed: int = 0, draws: int = 20_000) -> float:
    """Two-sided p-value of paired differences, one per item: how often random signs give a sum as far from 0 (Fisher 1935).

    Exact over all signs up to 16 items that differ, else by `draws` random ones with the observed one among them, so that
    it is never 0 and the test keeps its level. Items without a difference change nothing.
    """
    given = np.asarray([d for d in differences if d != 0], dtype=np.float64)
    if not len(given):
        return 1.0
    observed = abs(float(given.sum())) * (1 - 1e-9)  # sums of the same numbers in another order are equal
    if len(given) <= 16:
        signs = 1 - 2 * ((np.arange(1 << len(given))[:, None] >> np.arange(len(given))) & 1)
        return float((np.abs(signs @ given) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, draws, 1000):
        count = min(1000, draws - start)
        signs = 1 - 2 * rng.integers(0, 2, size=(count, len(given)), dtype=np.int8)
        hits += int((np.abs(signs @ given) >= observed).sum())
    return (1 + hits) / (1 + draws)


def _places(count: int, groups: Sequence[Hashable] | None) -> tuple[list[int], int]:
    """Number of the group of each item [count], by first appearance, and how many groups there are."""
    numbers: dict[Hashable, int] = {}
    places = [numbers.setdefault(g, len(numbers)) for g in (range(count) if groups is None else groups)]
    return places, len(numbers)


def entropy_nats(counts: Sequence[int]) -> float:
    """Entropy of a distribution given by counts, nats; 0 for no counts."""
    total = sum(counts)
    return sum((c / total * math.log(total / c) for c in counts if c), 0.0)
