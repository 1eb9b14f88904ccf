"""What a table of pairs says of itself: label noise, near-equal pairs, length bias, size, repetitions; each with an interval.

An estimate is {"value", "low", "high", "from", "unsure"}; shares with 95% intervals in which pairs of one prompt count
together. `unsure` says why the number should not be relied on, and is empty where nothing is known against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.rules.content import text_of
from prefopt.rules.gap_mixture import Mixture, fit_gaps
from prefopt.rules.intervals import share_interval
from prefopt.rules.selection import gap_mean, gap_sum
from prefopt.tables.records import Row, digest

FEWEST = 100  # pairs below which a mixture of three is not told apart
WIDEST = 0.2  # width of an interval that still says something of a share
APART = 1.25  # of the two sides in their spread, below which they are one hill
MISFIT = 1.22  # Kolmogorov's statistic (10%); fitted, so an honest fit stays far below
ALL_FROM_SCORES = (
    "no label contradicts its score, so the labels were probably made from them: that shows no noise"
)


def measure(rows: Sequence[Row], gap: str, draws: int, seed: int) -> dict[str, Any]:
    """All estimates of a table's rows, with reference log-probs where they are; `gap`: mean or sum.

    noise, equal: None where neither log-probs nor scores are there.
    """
    prompts = [row["prompt_id"] for row in rows]
    mixture = _mixture(rows, prompts, gap, draws, seed)
    return {
        "size": {"pairs": len(rows), "prompts": len(set(prompts))},
        "noise": noise_by_gap(mixture, len(rows)),
        "noise_by_scores": noise_by_scores(rows, prompts),
        "equal": equal_by_gap(mixture, len(rows)),
        "equal_by_scores": equal_by_scores(rows, prompts),
        "longer_chosen": length_bias(rows, prompts),
        "contradictory": contradictory(rows, prompts),
        "mixture": None
        if mixture is None
        else {
            name: getattr(mixture, name)
            for name in (
                "centre",
                "spread",
                "middle_spread",
                "separation",
                "one_hill",
                "misfit",
                "degrees",
                "n",
            )
        },
    }


def gaps_of(rows: Sequence[Row], gap: str) -> np.ndarray | None:
    """Reference gaps [N] in nats (per token for `mean`; NaN where not finite), None where the rows have no log-probs.

    Raises:
        PrefoptError: per-token gaps are asked for and the rows have no token counts.
    """
    if not rows or rows[0].get("ref_chosen_logps") is None:
        return None
    column = lambda name: np.array([row[name] for row in rows], dtype=np.float64)  # noqa: E731
    chosen, rejected = column("ref_chosen_logps"), column("ref_rejected_logps")
    if gap == "sum":
        return np.asarray(gap_sum(chosen, rejected))
    if rows[0].get("chosen_tokens") is None or rows[0].get("rejected_tokens") is None:
        raise PrefoptError(
            "advise: the rows have reference log-probs and no token counts (chosen_tokens, rejected_tokens); give --gap sum"
        )
    return np.asarray(gap_mean(chosen, rejected, column("chosen_tokens"), column("rejected_tokens")))


def _mixture(rows: Sequence[Row], prompts: Sequence[str], gap: str, draws: int, seed: int) -> Mixture | None:
    gaps = gaps_of(rows, gap)
    if gaps is None:
        return None
    finite = np.isfinite(gaps)
    if finite.sum() < 3 or not np.ptp(gaps[finite]):
        return None
    kept = [prompt for prompt, keep in zip(prompts, finite, strict=True) if keep]
    return fit_gaps(gaps[finite], kept, draws=draws, seed=seed)


def noise_by_gap(mixture: Mixture | None, pairs: int) -> dict[str, Any] | None:
    """Share of wrong labels among pairs of clear quality, from the tail of the gaps on the other side of 0."""
    if mixture is None:
        return None
    return {**mixture.noise, "from": "reference gaps", "unsure": _doubt(mixture, mixture.noise, pairs)}


def equal_by_gap(mixture: Mixture | None, pairs: int) -> dict[str, Any] | None:
    """Share of pairs whose gap lies around 0 however their labels fell."""
    if mixture is None:
        return None
    return {**mixture.equal, "from": "reference gaps", "unsure": _doubt(mixture, mixture.equal, pairs)}


def _doubt(mixture: Mixture, found: Mapping[str, float], pairs: int) -> str:
    if pairs < FEWEST:
        return f"{pairs} pairs; at least {FEWEST} are needed"
    if mixture.misfit > MISFIT:
        return f"the gaps do not look like the mixture that is assumed (distance {mixture.misfit:.2f}, honest fits stay below {MISFIT})"
    if mixture.one_hill or mixture.separation < APART:
        return (
            "this model's log-probs hardly tell the better answers from the worse ones (the gaps are one hill, or two "
            f"less than {APART} spreads from 0)"
        )
    return _wide(found)


def _wide(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return "one prompt says nothing of others"
    width = found["high"] - found["low"]
    return f"the interval is {100 * width:.0f} points wide" if width > WIDEST else ""


def _scores(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Row number and score of chosen minus score of rejected, where both are there."""
    found = []
    for k, row in enumerate(rows):
        chosen, rejected, margin = (row.get(name) for name in ("score_chosen", "score_rejected", "margin"))
        if chosen is not None and rejected is not None:
            found.append((k, float(chosen) - float(rejected)))
        elif margin is not None:
            found.append((k, float(margin)))
    return found


def noise_by_scores(rows: Sequence[Row], prompts: Sequence[str]) -> dict[str, Any] | None:
    """Share of pairs whose scores say the opposite of the label, among those whose scores differ."""
    given = [(k, d) for k, d in _scores(rows) if d]
    if not given:
        return None
    found = share_interval([float(d < 0) for _, d in given], [prompts[k] for k, _ in given])
    doubt = ALL_FROM_SCORES if found["mean"] == 0 else _wide(found)
    return {**_named(found), "from": f"scores of {len(given)} pairs", "unsure": doubt}


def equal_by_scores(rows: Sequence[Row], prompts: Sequence[str]) -> dict[str, Any] | None:
    """Share of pairs whose two scores are the same."""
    given = _scores(rows)
    if not given:
        return None
    found = share_interval([float(not d) for _, d in given], [prompts[k] for k, _ in given])
    return {**_named(found), "from": f"scores of {len(given)} pairs", "unsure": _wide(found)}


def length_bias(rows: Sequence[Row], prompts: Sequence[str]) -> dict[str, Any]:
    """Share of pairs whose chosen answer is the longer one (equal lengths: half), in tokens or else in characters."""
    tokens = bool(rows) and rows[0].get("chosen_tokens") is not None
    sizes = [
        tuple(row[f"{side}_tokens"] if tokens else len(text_of(row[side])) for side in ("chosen", "rejected"))
        for row in rows
    ]
    found = share_interval([0.5 if a == b else float(a > b) for a, b in sizes], prompts)
    return {**_named(found), "from": "tokens" if tokens else "characters", "unsure": _wide(found)}


def contradictory(rows: Sequence[Row], prompts: Sequence[str]) -> dict[str, Any]:
    """Share of pairs that also stand there the other way round: of each two such labels one is wrong."""
    places = {digest(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    found = share_interval(
        [float(digest(row["prompt"], row["rejected"], row["chosen"]) in places) for row in rows], prompts
    )
    return {**_named(found), "from": "texts", "unsure": ""}


def _named(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": found["mean"], "low": found["low"], "high": found["high"]}
