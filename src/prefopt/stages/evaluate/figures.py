"""Figures of stage 08 from its rows: accuracy, pass@k, lengths, pair accuracy, and one model against another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.rules.intervals import mcnemar, mean_maj_at_k, mean_pass_at_k, paired_difference, share_interval
from prefopt.stages.sample.sample import length_figures
from prefopt.tables.records import Row

MODES = {"accuracy": "sampled", "greedy": "greedy"}
# rewards of a model against itself differ from 0 by rounding only; closer than this is a tie
TIE_NATS = 1e-3
METRICS = ("logp", "logp_mean", "reward")


def sample_figures(rows: Sequence[Row], pass_k: Sequence[int] | None = None) -> dict[str, Any]:
    """`accuracy` (sampled) and `greedy` with intervals, n counting prompts; `pass_at_k`, `maj_at_k`, `constraints`; lengths by mode.

    Null for a mode without verified completions.
    """
    found: dict[str, Any] = {}
    lengths = {}
    for name, mode in MODES.items():
        part = [row for row in rows if row["kind"] == "sample" and row["mode"] == mode]
        judged = [row for row in part if row["is_correct"] is not None]
        right = [float(row["is_correct"]) for row in judged]
        found[name] = share_interval(right, [row["prompt_id"] for row in judged]) if judged else None
        if part:
            unparsed = sum(row["answer"] is None and not row.get("followed") for row in part) / len(part)
            lengths[mode] = {"completions": len(part), **length_figures(part), "unparsed_share": unparsed}
    counts = [(len(group), sum(group)) for group in _by_prompt(rows, "sampled").values()]
    found["pass_at_k"] = mean_pass_at_k(counts, pass_k)
    found["maj_at_k"] = _maj_at_k(rows, pass_k)
    found["constraints"] = constraint_figures(rows)
    found["completions"] = lengths
    return found


def _maj_at_k(rows: Sequence[Row], ks: Sequence[int] | None) -> dict[str, Any] | None:
    """Accuracy of the majority of k sampled answers; null where answers have no classes (one sample, no gold answer)."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == "sample" and row["mode"] == "sampled" and row.get("answer_class") is not None:
            groups.setdefault(row["prompt_id"], []).append(row)
    prompts = []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: row["completion_index"])
        classes = [row["answer_class"] for row in ordered]
        prompts.append((classes, {row["answer_class"] for row in ordered if row["is_correct"]}))
    return mean_maj_at_k(prompts, ks) or None


def constraint_figures(rows: Sequence[Row]) -> dict[str, Any] | None:
    """IFEval's four accuracies with intervals by mode: of prompts (all constraints kept) and of constraints, strict and loose.

    Intervals take the constraints and samples of one prompt together; `n` counts prompts, `constraints` constraints.
    `kinds`: kind -> constraints, share kept. Null without completions that were judged by constraints.
    """
    found: dict[str, Any] = {}
    for mode in MODES.values():
        part = [r for r in rows if r["kind"] == "sample" and r["mode"] == mode and r.get("followed")]
        if not part:
            continue
        names = [row["prompt_id"] for row in part]
        single = [row["prompt_id"] for row in part for _ in row["followed"]["ids"]]
        found[mode] = {"constraints": len(single)}
        for way in ("strict", "loose"):
            whole = [float(all(row["followed"][way])) for row in part]
            each = [float(kept) for row in part for kept in row["followed"][way]]
            found[mode][f"prompt_{way}"] = share_interval(whole, names)
            found[mode][f"instruction_{way}"] = share_interval(each, single)
        found[mode]["kinds"] = _by_constraint(part)
    return found or None


def _by_constraint(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    counts: dict[str, list[tuple[bool, bool]]] = {}
    for row in rows:
        said = row["followed"]
        for name, strict, loose in zip(said["ids"], said["strict"], said["loose"], strict=True):
            counts.setdefault(name, []).append((strict, loose))
    return {
        name: {
            "n": len(kept),
            "strict": statistics.fmean(strict for strict, _ in kept),
            "loose": statistics.fmean(loose for _, loose in kept),
        }
        for name, kept in sorted(counts.items())
    }


def _by_prompt(rows: Sequence[Row], mode: str) -> dict[str, list[int]]:
    """Verdicts (0 or 1) of each prompt in a mode, in order of completion_index."""
    part = [r for r in rows if r["kind"] == "sample" and r["mode"] == mode and r["is_correct"] is not None]
    groups: dict[str, list[int]] = {}
    for row in sorted(part, key=lambda row: row["completion_index"]):
        groups.setdefault(row["prompt_id"], []).append(int(row["is_correct"]))
    return groups


# ---- pairs


def pair_margin(row: Mapping[str, Any], metric: str, prefix: str = "") -> float | None:
    """Log-prob of chosen minus rejected, nats; `prefix="ref_"` for the reference model. Null if it is not known.

    metric: logp (sums), logp_mean (per token), reward (policy's difference minus the reference's, the implicit reward
    of DPO without its beta).
    """
    sides = [row.get(f"{prefix}{name}_logps") for name in ("chosen", "rejected")]
    if None in sides:
        return None
    chosen, rejected = (float(side) for side in sides if side is not None)
    if metric == "logp_mean":
        counts = row.get("chosen_tokens"), row.get("rejected_tokens")
        return None if not all(counts) else chosen / counts[0] - rejected / counts[1]  # type: ignore[operator]
    if metric == "reward":
        reference = pair_margin(row, "logp", "ref_")
        return None if reference is None else chosen - rejected - reference
    return chosen - rejected


def pair_correct(row: Mapping[str, Any], metric: str) -> bool | None:
    """Whether chosen ranks above rejected; null for a tie or without log-probs."""
    margin = pair_margin(row, metric)
    return None if margin is None or abs(margin) <= _tie(metric) else margin > 0


def _tie(metric: str) -> float:
    return TIE_NATS if metric == "reward" else 0.0


def pair_figures(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Pair accuracy by each metric (ties count half), the reference's, the change, and the drift of the chosen answer.

    Intervals are over pairs, with the spread between prompts; `n` counts prompts, `pairs` pairs. Null without pairs.
    """
    pairs = [row for row in rows if row["kind"] == "pair"]
    if not pairs:
        return None
    found: dict[str, Any] = {"pairs": len(pairs)}
    for name, metric, prefix in (
        ("reference", "logp", "ref_"),
        *((metric, metric, "") for metric in METRICS),
    ):
        margins = {row["id"]: pair_margin(row, metric, prefix) for row in pairs}
        known = [row for row in pairs if margins[row["id"]] is not None]
        outcomes = [_outcome(margins[row["id"]], _tie(metric)) for row in known]
        found[name] = None
        if known:
            ties = outcomes.count(0.5)
            found[name] = {**share_interval(outcomes, [row["prompt_id"] for row in known]), "ties": ties}
    both = [row for row in pairs if pair_margin(row, "logp", "ref_") is not None]
    before = [_outcome(pair_margin(row, "logp", "ref_"), 0.0) for row in both]
    after = [_outcome(pair_margin(row, "logp"), 0.0) for row in both]
    found["against_reference"] = change(before, after, [row["prompt_id"] for row in both])
    for side in ("chosen", "rejected"):
        drift = [row[f"{side}_logps"] - row[f"ref_{side}_logps"] for row in both]
        size = [abs(row[f"ref_{side}_logps"]) for row in both]
        found[f"{side}_drift_nats"] = statistics.fmean(drift) if both else None
        found[f"{side}_drift_share"] = (
            math.fsum(drift) / math.fsum(size) if both and math.fsum(size) else None
        )
    return found


def _outcome(margin: float | None, tie: float) -> float:
    assert margin is not None
    return 0.5 if abs(margin) <= tie else float(margin > 0)


# ---- one model against another


def against(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    """Paired change on the same prompts, by mode: difference with a 95% interval, McNemar's p values."""
    found: dict[str, Any] = {}
    for name, mode in MODES.items():
        old, new = _by_prompt(before, mode), _by_prompt(after, mode)
        both = [
            (prompt, float(x), float(y))
            for prompt in new
            for x, y in zip(old.get(prompt, []), new[prompt], strict=False)
        ]
        found[name] = change([x for _, x, _ in both], [y for _, _, y in both], [p for p, _, _ in both])
    return found


def change(before: Sequence[float], after: Sequence[float], prompts: Sequence[str]) -> dict[str, Any] | None:
    """The change of paired outcomes, null without any; McNemar's p is null where a prompt has several outcomes."""
    if not prompts:
        return None
    steps = [b - a for a, b in zip(before, after, strict=True)]
    gained, lost = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
    single = len(set(prompts)) == len(prompts)
    p_values = mcnemar(gained, lost) if single else None
    return {
        **paired_difference(before, after, prompts),
        "gained": gained,
        "lost": lost,
        "mcnemar_p": p_values,
    }
