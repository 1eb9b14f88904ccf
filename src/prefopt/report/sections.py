"""First screen and accuracy, as plain values for the template; None where the run has nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefopt.report import plots
from prefopt.report.load import RunData
from prefopt.report.text import duration, hundredths, number, percent, percent_interval, points
from prefopt.report.verdict import arm_name

View = dict[str, Any]
METRICS = {
    "accuracy": "sampled accuracy",
    "greedy": "greedy accuracy",
    "pair_accuracy": "held-out pair accuracy",
}

BY_K = (
    ("pass_at_k", "pass@k: at least one of k samples is right"),
    ("maj_at_k", "maj@k: the majority of k samples is right"),
)
CONSTRAINT_MEASURES = {
    "prompt_strict": "prompts, strict",
    "prompt_loose": "prompts, loose",
    "instruction_strict": "constraints, strict",
    "instruction_loose": "constraints, loose",
}


def arm_kinds(run: RunData) -> dict[str, str]:
    """Arm -> CSS class of its colour: `kb` base, `k0` the main arm, then `k1` ... in the recipe's order."""
    others = [arm for arm in run.summary["arms"] if arm != run.main]
    kinds = {"base": "kb", run.main: "k0"}
    return kinds | {arm: f"k{1 + k % 5}" for k, arm in enumerate(others)}


def arms_shown(run: RunData) -> list[str]:
    """Arms in the order of figures: base first, the main arm last."""
    return ["base", *(arm for arm in run.summary["arms"] if arm != run.main), run.main]


def interval_rows(run: RunData, metric: str) -> list[tuple[str, str, float, float | None, float | None]]:
    """(arm, kind, mean, low, high) of every arm that has the metric; no interval where one prompt is left."""
    kinds, found = arm_kinds(run), run.summary.get(metric) or {}
    rows = []
    for arm in arms_shown(run):
        entry = found.get(arm)
        if entry and entry.get("mean") is not None:
            rows.append((shown_name(run, arm), kinds[arm], entry["mean"], entry["low"], entry["high"]))
    return rows


def shown_name(run: RunData, arm: str) -> str:
    """An arm's name for reading."""
    return arm_name(run.summary, arm)


def first_screen(run: RunData) -> View:
    """Headline numbers, interval figure, verdict and facts."""
    summary = run.summary
    metric = summary.get("headline")
    rows = interval_rows(run, metric) if metric else []
    entries = summary.get(metric) or {} if metric else {}
    base, main = entries.get("base"), entries.get(run.main)
    warnings = summary.get("warnings") or []
    return {
        "metric": METRICS.get(metric or ""),
        "before": percent(base["mean"]) if base else None,
        "after": percent(main["mean"]) if main else None,
        "n": main.get("pairs", main["n"]) if main else None,
        "one_prompt": bool(rows) and all(low is None for *_, low, _ in rows),
        "of": "test prompts" if metric in ("accuracy", "greedy") else "held-out pairs",
        "arm": shown_name(run, run.main),
        "ladder": plots.ladder(rows, METRICS[metric]) if metric and rows else None,
        "verdict": [said for said in summary.get("verdict") or [] if said not in warnings],
        "warnings": warnings,
        "facts": _facts(run),
    }


def _facts(run: RunData) -> list[tuple[str, str]]:
    summary = run.summary
    data = run.quality(run.main, "data")
    trained = summary["arms"][run.main]
    facts = [("model", str(summary.get("model", "")))]
    if data.get("kind"):
        facts.append(("input", f"{number(run.manifest(run.main, 'data').get('rows_out'))} {data['kind']}"))
    if trained.get("pairs") is not None:
        facts.append(
            ("trained on", f"{number(trained['pairs'])} pairs, {number(trained.get('steps'))} steps")
        )
    facts.append(("seed", str(summary.get("seed"))))
    # a continued run measures only its own part; the stages know the rest
    spent = max(summary.get("seconds") or 0.0, sum((summary.get("stage_seconds") or {}).values()))
    facts.append(("time", duration(spent)))
    if trained.get("loss"):
        facts.append(("loss", loss_name(trained["loss"], words=False)))
    return facts


def loss_name(terms: Sequence[Mapping[str, Any]], *, words: bool = True) -> str:
    """A sum of losses for reading: `dpo (beta 0.1) + 0.2 budget (delta 0, unit token)`; `words`: text settings too."""
    said = []
    for term in terms:
        hyper = [_setting(k, v) for k, v in (term.get("hyperparameters") or {}).items()]
        shown = ", ".join(text for text, is_word in hyper if text and (words or not is_word))
        scale = "" if term.get("scale", 1.0) == 1.0 else f"{term['scale']:g} "
        said.append(f"{scale}{term['name']}{f' ({shown})' if shown else ''}")
    return " + ".join(said)


def _setting(name: str, value: Any) -> tuple[str, bool]:
    """A hyperparameter as text (empty where it is no single value), and whether its value is a word."""
    if isinstance(value, int | float):
        return f"{name} {value:g}", False
    return (f"{name} {value}" if isinstance(value, str) else ""), True


def accuracy(run: RunData) -> View | None:
    """Table of all arms, interval figures of what is not on the first screen, paired differences, pass@k."""
    summary, kinds = run.summary, arm_kinds(run)
    metrics = [metric for metric in METRICS if interval_rows(run, metric)]
    if not metrics:
        return None
    table = []
    for arm in arms_shown(run):
        cells = [_cell((summary.get(metric) or {}).get(arm)) for metric in metrics]
        table.append({
            "name": shown_name(run, arm), "kind": kinds[arm], "main": arm == run.main, "cells": cells,
            "reward": _cell(((summary.get("pair_accuracy") or {}).get(arm) or {}).get("reward")),
            "length": number((summary.get("mean_tokens") or {}).get(arm)),
            "drift": hundredths((summary.get("chosen_drift") or {}).get(arm)),
        })  # fmt: skip
    others = [metric for metric in metrics if metric != summary.get("headline")]
    return {
        "columns": [METRICS[metric] for metric in metrics],
        "table": table,
        "with_reward": any(row["reward"] for row in table),
        "with_length": any(row["length"] != "–" for row in table),
        "with_drift": any(row["drift"] != "–" for row in table),
        "ladders": [(METRICS[m], plots.ladder(interval_rows(run, m), METRICS[m])) for m in others],
        "paired": _paired(run, metrics),
        "by_k": [view for view in (_by_k(run, *figure) for figure in BY_K) if view],
        "constraints": _constraints(run),
    }


def _cell(entry: Mapping[str, Any] | None) -> View | None:
    if not entry or entry.get("mean") is None:
        return None
    return {"mean": percent(entry["mean"]), "interval": percent_interval(entry), "n": number(entry["n"])}


def _paired(run: RunData, metrics: Sequence[str]) -> list[View]:
    """One row per comparison, one cell per metric; the main arm's come first."""
    found = []
    for arm in reversed(arms_shown(run)):
        for other, measures in ((run.summary.get("paired") or {}).get(arm) or {}).items():
            cells = [_change(measures.get(metric)) for metric in metrics]
            if any(cells):
                names = {"arm": shown_name(run, arm), "other": shown_name(run, other)}
                found.append({**names, "kind": arm_kinds(run)[arm], "cells": cells})
    return found


def _change(entry: Mapping[str, Any] | None) -> View | None:
    if not entry or entry.get("mean") is None:
        return None
    low = entry["low"]
    return {
        "difference": points(entry["mean"]),
        "interval": f"[{points(low)}, {points(entry['high'])}]" if low is not None else "no interval",
        "gained": number(entry.get("gained")),
        "lost": number(entry.get("lost")),
        "p": (entry.get("mcnemar_p") or {}).get("midp"),
        "tone": "plain" if low is None else "good" if low > 0 else "bad" if entry["high"] < 0 else "plain",
    }


def _by_k(run: RunData, key: str, title: str) -> View | None:
    """A table of arms and numbers of samples."""
    found = run.summary.get(key) or {}
    ks = sorted({int(k) for values in found.values() for k in values or {}})
    if len(ks) < 2:
        return None
    rows = [
        {
            "name": shown_name(run, arm),
            "kind": arm_kinds(run)[arm],
            "main": arm == run.main,
            "cells": [_share(found[arm].get(str(k))) for k in ks],
        }
        for arm in arms_shown(run)
        if found.get(arm)
    ]
    return {"title": title, "ks": ks, "rows": rows}


def _share(value: Any) -> str:
    """A share, or the mean of an interval."""
    return percent(value["mean"] if isinstance(value, Mapping) else value)


def _constraints(run: RunData) -> View | None:
    """IFEval's four accuracies of every arm, sampled and greedy."""
    found = run.summary.get("constraints") or {}
    rows = [
        {
            "name": shown_name(run, arm),
            "mode": mode,
            "kind": arm_kinds(run)[arm],
            "main": arm == run.main,
            "cells": [_cell(found[arm][mode][measure]) for measure in CONSTRAINT_MEASURES],
        }
        for arm in arms_shown(run)
        for mode in found.get(arm) or {}
    ]
    return {"columns": list(CONSTRAINT_MEASURES.values()), "rows": rows} if rows else None
