"""Training curves of all arms as small figures on common steps."""

from __future__ import annotations

from typing import Any

from prefopt.report import plots
from prefopt.report.load import RunData
from prefopt.report.sections import arm_kinds, loss_name, shown_name
from prefopt.report.text import signed
from prefopt.tables.records import Row

# title, unit, columns of the history (a second one is drawn dashed)
PANELS = (
    ("reward margin", "", ("rewards/margins",)),
    ("rewards, chosen and rejected", "", ("rewards/chosen", "rewards/rejected")),
    ("reward accuracy", "share", ("rewards/accuracies",)),
    ("log-prob drift of chosen answers, nats", "nats", ("logps/chosen_drift",)),
    ("gradient norm", "", ("grad_norm",)),
)


def training(run: RunData) -> dict[str, Any] | None:
    """Figures of rewards, margins, drift and loss; None when no arm was trained."""
    arms = [arm for arm in run.summary["arms"] if run.stage(arm, "train")]
    history = {arm: run.rows(arm, "train") for arm in arms}
    history = {arm: rows for arm, rows in history.items() if rows}
    if not history:
        return None
    figures = [_panel(run, history, title, unit, names) for title, unit, names in PANELS]
    figures[4:4] = _losses(run, history)
    kinds = arm_kinds(run)
    key = [(kinds[arm], "line", shown_name(run, arm)) for arm in history]
    key.append(("kb", "dash", "rejected answers"))
    held = any(name.startswith("eval_") for rows in history.values() for row in rows for name in row)
    if held:
        key.append(("kb", "circle", "held-out pairs"))
    terms = [
        {"name": shown_name(run, arm), "kind": kinds[arm], "main": arm == run.main,
         "loss": loss_name(run.summary["arms"][arm].get("loss") or [])}
        for arm in history
    ]  # fmt: skip
    return {"figures": [f for f in figures if f], "key": key, "held_out": held, "smoothed": any(c.raw for f in figures if f for c in f.curves), "terms": terms,
            "step0": _step_zero(run, history)}  # fmt: skip


def _panel(
    run: RunData, history: dict[str, list[Row]], title: str, unit: str, names: tuple[str, ...]
) -> plots.Lines | None:
    series = []
    for arm, rows in history.items():
        for k, name in enumerate(names):
            series += _both(run, arm, rows, name, dashed=k > 0)
    return plots.lines(title, series, unit=unit)


def _losses(run: RunData, history: dict[str, list[Row]]) -> list[plots.Lines | None]:
    """One figure per kind of loss: values of different losses do not compare."""
    groups: dict[str, list[str]] = {}
    for arm in history:
        terms = run.summary["arms"][arm].get("loss") or []
        groups.setdefault(" + ".join(term["name"] for term in terms) or arm, []).append(arm)
    figures = []
    for name, arms in groups.items():
        series = [one for arm in arms for one in _both(run, arm, history[arm], "loss")]
        figures.append(plots.lines(f"loss: {name}", series))
    return figures


def _both(run: RunData, arm: str, rows: list[Row], name: str, *, dashed: bool = False) -> list[plots.Series]:
    """The training curve and, where there is one, the held-out one."""
    kind, said = arm_kinds(run)[arm], shown_name(run, arm)
    said = f"{said} rejected" if dashed else said
    found = []
    for column, held_out in ((name, False), (f"eval_{name}", True)):
        spots = [(float(row["step"]), float(row[column])) for row in rows if row.get(column) is not None]
        x, y = [s for s, _ in spots], [v for _, v in spots]
        label = f"{said} held out" if held_out else said
        found.append(plots.Series(label, kind, x, y, dashed, held_out))
    return [one for one in found if one.x]


def _step_zero(run: RunData, history: dict[str, list[Row]]) -> str:
    """What the check of the first batch found, in one sentence."""
    rows = {arm: found[0] for arm, found in history.items() if found[0].get("step0/passed") is not None}
    if not rows:
        return ""
    failed = [shown_name(run, arm) for arm, row in rows.items() if row["step0/passed"] != 1.0]
    worst = max(row["step0/reward_max"] for row in rows.values())
    if failed:
        return (
            f"Check before the first step: rewards should be 0, but the largest is {signed(worst)} "
            f"({', '.join(failed)}); the reference log-probs belong to another model, template or dtype."
        )
    return f"Check before the first step: policy and reference agree, the largest reward is {worst:.1e}."
