"""Parts `simulated` and `scalar` of the ranking study: judges of known worth.

simulated: the table of the specification. Quality N(0, 1), P(first wins) = sigmoid(1.5 (q_first - q_second) + 1), M = 5; the last
best-against-worst check is not counted.

scalar: ipr against a scalar score that costs the same calls under the same noise. A score is q + Gumbel / slope, so that the
larger of two scores is right with probability sigmoid(slope difference): exactly a pairwise call without position bias. Scores are
averaged over ceil or floor of (calls of ipr) / M calls per answer. Out of distribution an error N(0, tau) per answer is added that
no repetition averages away: to the scalar score alone (what 2411.05875 claims happens), or to the quality that both see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ranking_parts import STRATEGIES, drive, over_trials

from prefopt.rules.tournament import Outcome

SLOPE, BIAS, ANSWERS, TRIALS = 1.5, 1.0, 5, 6000
EXPECTED = {  # spec/ranking: P(best), P(worst), P(pair inverted), calls
    "one call, random slot": (0.554, 0.563, 0.074, 6.2),
    "ipr": (0.598, 0.603, 0.036, 12.7),
    "knockout": (0.559, 0.572, 0.065, 11.8),
    "round_robin, copeland": (0.687, 0.683, 0.013, 20.0),
}
TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
Rng = np.random.Generator


def call(rng: Rng, one: float, other: float, bias: float) -> bool:
    """One judge call: the first answer wins."""
    return bool(rng.random() < 1.0 / (1.0 + math.exp(-(SLOPE * (one - other) + bias))))


def both_orders(rng: Rng, quality: Sequence[float], bias: float = BIAS) -> Callable[[int, int], Outcome]:
    """Both calls must name the same answer."""

    def compare(a: int, b: int) -> Outcome:
        ahead, behind = call(rng, quality[a], quality[b], bias), call(rng, quality[b], quality[a], bias)
        return "a" if ahead and not behind else "b" if behind and not ahead else "tie"

    return compare


def one_call(rng: Rng, quality: Sequence[float]) -> Callable[[int, int], Outcome]:
    """A single call; who stands first is drawn."""

    def compare(a: int, b: int) -> Outcome:
        if rng.random() < 0.5:
            return "a" if call(rng, quality[a], quality[b], BIAS) else "b"
        return "b" if call(rng, quality[b], quality[a], BIAS) else "a"

    return compare


def run_simulated(seeds: int) -> dict[str, Any]:
    """The specification's table with errors over seeds, beside the expected values."""
    schemes = ["one call, random slot", *STRATEGIES]
    table = {name: [scheme_figures(name, seed) for seed in range(seeds)] for name in schemes}
    rows = {}
    for name, found in table.items():
        rows[name] = {m: over_trials([f[m] for f in found], TRIALS) for m in found[0]}
        if name in EXPECTED:
            rows[name]["expected"] = dict(
                zip(("best", "worst", "inverted", "calls"), EXPECTED[name], strict=True)
            )
    calls = [call_figures(seed) for seed in range(seeds)]
    single = {m: over_trials([f[m] for f in calls], TRIALS) for m in calls[0]}
    return {
        "trials": TRIALS,
        "answers": ANSWERS,
        "slope": SLOPE,
        "first_bias": BIAS,
        "schemes": rows,
        "one_call": single,
    }


def scheme_figures(name: str, seed: int) -> dict[str, float]:
    """Shares of TRIALS tournaments in which the best and the worst are found and the pair is inverted; mean calls."""
    rng = np.random.default_rng([seed, len(name)])
    single = name == "one call, random slot"
    start = STRATEGIES["ipr" if single else name]
    best = worst = inverted = calls = 0
    for _ in range(TRIALS):
        quality = rng.standard_normal(ANSWERS).tolist()
        compare = one_call(rng, quality) if single else both_orders(rng, quality)
        end = drive(start, range(ANSWERS), compare)
        best += end.final.best == int(np.argmax(quality))
        worst += end.final.worst == int(np.argmin(quality))
        inverted += quality[end.final.best] < quality[end.final.worst]
        calls += (end.comparisons - end.extra_check) * (1 if single else 2)
    return {
        m: v / TRIALS for m, v in (("best", best), ("worst", worst), ("inverted", inverted), ("calls", calls))
    }


def call_figures(seed: int) -> dict[str, float]:
    """A single call's accuracy (slots drawn) and swap consistency of this judge."""
    rng = np.random.default_rng([seed, 999])
    right = consistent = 0
    for _ in range(TRIALS):
        one, other = rng.standard_normal(2)
        ahead, behind = call(rng, one, other, BIAS), call(rng, other, one, BIAS)
        right += (ahead == (one > other)) if rng.random() < 0.5 else (behind == (other > one))
        consistent += ahead != behind
    return {"right": right / TRIALS, "swap_consistency": consistent / TRIALS}


# ---- ipr against a scalar score


def run_scalar(seeds: int) -> dict[str, Any]:
    """Inverted pairs of ipr and of a scalar score at equal calls, by size of the error out of distribution."""
    rows = {}
    for tau in TAUS:
        found = [scalar_figures(tau, seed) for seed in range(seeds)]
        rows[f"{tau:g}"] = {
            scheme: {m: over_trials([f[scheme][m] for f in found], TRIALS) for m in found[0][scheme]}
            for scheme in found[0]
        }
    return {"trials": TRIALS, "answers": ANSWERS, "slope": SLOPE, "first_bias": BIAS, "tau": rows}


def scalar_figures(tau: float, seed: int) -> dict[str, dict[str, float]]:
    """P(best), P(worst), P(inverted) per scheme, over all trials and (kept) over those where ipr's last check held."""
    rng = np.random.default_rng([seed, int(tau * 1000), 7])
    sums: dict[str, dict[str, float]] = {}

    def note(
        scheme: str, quality: Sequence[float], best: int, worst: int, calls: float, kept: bool = True
    ) -> None:
        into = sums.setdefault(
            scheme, dict.fromkeys(("best", "worst", "inverted", "calls", "kept", "kept_inverted"), 0.0)
        )
        wrong = quality[best] < quality[worst]
        seen = {"best": best == int(np.argmax(quality)), "worst": worst == int(np.argmin(quality)), "inverted": wrong,
                "calls": calls, "kept": kept, "kept_inverted": kept and wrong}  # fmt: skip
        for name, value in seen.items():
            into[name] += value

    for _ in range(TRIALS):
        quality = rng.standard_normal(ANSWERS)
        shifted = quality + tau * rng.standard_normal(ANSWERS)
        budget = 0
        for scheme, seen, bias in (
            ("ipr", quality, BIAS),
            ("ipr, no position bias", quality, 0.0),
            ("ipr, sees the error too", shifted, BIAS),
        ):
            end = drive(STRATEGIES["ipr"], range(ANSWERS), both_orders(rng, seen.tolist(), bias))
            budget = budget or 2 * end.comparisons
            note(scheme, quality, end.final.best, end.final.worst, 2 * end.comparisons, not end.final.reason)
        for scheme, calls in (
            ("score, one call per answer", ANSWERS),
            ("score, as many calls as ipr", budget),
        ):
            score = scores(rng, shifted, calls)
            note(scheme, quality, int(score.argmax()), int(score.argmin()), calls)
    for into in sums.values():
        into["kept_inverted"] = into["kept_inverted"] / max(into["kept"], 1.0)
        for name in ("best", "worst", "inverted", "calls", "kept"):
            into[name] /= TRIALS
    return sums


def scores(rng: Rng, quality: np.ndarray, calls: int) -> np.ndarray:
    """Mean score of each answer; calls are dealt evenly, the rest to answers drawn."""
    share = np.full(len(quality), calls // len(quality))
    share[rng.permutation(len(quality))[: calls % len(quality)]] += 1
    return np.array([q + rng.gumbel(size=n).mean() / SLOPE for q, n in zip(quality, share, strict=True)])
