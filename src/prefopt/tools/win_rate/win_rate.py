"""`prefopt win-rate`: how often a model's answers are preferred to a baseline's, plain and length-controlled (docs/evaluate.md).

Plain: the mean preference; the discrete one counts verdicts, a tie as half. Length-controlled: `prefopt.rules.length_control`
(2404.04475), in the form that what is given allows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.rules.intervals import share_interval
from prefopt.rules.length_control import ANCHOR_WEIGHT, Anchors, length_controlled, length_terms
from prefopt.stages.data.reading.readers import read_rows
from prefopt.tables.context import Context
from prefopt.tables.owned import Claims
from prefopt.tables.records import Row, make_table, write_json, write_table
from prefopt.tools.win_rate.answers import has_annotations, read_difficulty, read_outputs
from prefopt.tools.win_rate.compared import Compared, annotated, annotation, as_annotations, judged
from prefopt.tools.win_rate.settings import WinRateConfig

FEW, MANY_UNPARSED, FAR = 30, 0.05, 0.10
JOURNAL = "verdicts.jsonl"
FIGURES, TABLE, ANNOTATIONS = "win-rate.json", "verdicts.parquet", "annotations.json"
CLAIMS = Claims("win-rate", (FIGURES, TABLE, ANNOTATIONS), loose=(JOURNAL,), lasting=(JOURNAL,))


@dataclass(frozen=True)
class WinRates:
    """figures: what win-rate.json holds. annotations: rows in AlpacaEval's form. verdicts: one row per call of the judge."""

    figures: dict[str, Any]
    annotations: list[dict[str, Any]]
    verdicts: Sequence[Row]


def win_rate(
    places: Sequence[str],
    baseline: str | None = None,
    config: WinRateConfig = WinRateConfig(),  # type: ignore[call-arg]
    context: Context | None = None,
    *,
    journal: Path | None = None,
) -> WinRates:
    """Win rates of the answers at `places` against those at `baseline`, or of recorded annotations.

    places, baseline: runs, folders of stages or files (`prefopt.tools.win_rate.answers`); files of annotations need no
    baseline. journal: file in which verdicts are kept, so that a killed command goes on.

    Raises:
        PrefoptError: nothing to compare, no judge or one that gives up, or a prompt without difficulty.
    """
    if not places:
        raise PrefoptError("win-rate: whose answers? give runs, folders or files of outputs")
    context = context or Context()
    difficulty = read_difficulty(config.difficulty) if config.difficulty is not None else None
    recorded = [place for place in places if has_annotations(place)]
    asked = None
    if recorded:
        _only_annotations(places, recorded, baseline, config)
        against, by_model, annotators = annotated(places)
        judge: dict[str, Any] = {"kind": "annotations", "annotators": annotators}
        by_model = {name: rows[: config.limit] for name, rows in by_model.items()}
    else:
        if baseline is None:
            raise PrefoptError(
                "win-rate: against whom? give --baseline RUN:base, a folder or a file of outputs"
            )
        models = [read_outputs(place, config.mode) for place in places]
        other = read_outputs(baseline, config.mode)
        _differ([model.name for model in models], other.name)
        asked = judged(models, other, config, context, journal)
        against, judge = other.name, dict(asked.judge)
        by_model = {name: list(rows) for name, rows in asked.by_model.items()}
    anchors = _anchors(config.anchors, difficulty) if difficulty is not None and config.anchors else None
    figures = {name: model_figures(rows, difficulty, anchors) for name, rows in by_model.items()}
    about: dict[str, Any] = {"baseline": against, "judge": judge, "seed": context.seed}
    if asked is not None:
        about |= {"calls": asked.calls, "calls_reused": asked.reused}
    about |= {"models": figures, "warnings": list(_warnings(figures))}
    name = asked.name if asked is not None else ", ".join(judge["annotators"])
    return WinRates(about, list(as_annotations(against, name, by_model)), asked.verdicts if asked else ())


def _only_annotations(
    places: Sequence[str], recorded: Sequence[str], baseline: str | None, config: WinRateConfig
) -> None:
    if len(recorded) < len(places):
        rest = next(place for place in places if place not in recorded)
        raise PrefoptError(
            f"win-rate: {recorded[0]} holds annotations, {rest} outputs; give one or the other"
        )
    if baseline is not None or config.judge is not None:
        what = "--baseline" if baseline is not None else "--judge"
        raise PrefoptError(f"win-rate: {recorded[0]} holds verdicts already; leave out {what}")


def _differ(names: Sequence[str], baseline: str) -> None:
    for place, name in enumerate(names):
        if name in names[:place] or name == baseline:
            raise PrefoptError(f"win-rate: {name} is given twice; name answers of different models")


# ---- figures


def model_figures(
    compared: Sequence[Compared],
    difficulty: Mapping[str, float] | None = None,
    anchors: Anchors | None = None,
) -> dict[str, Any]:
    """Figures of one model; shares are 0..1, intervals 95% by prompt.

    win_rate: mean preference. discrete_win_rate: wins and half the ties. standard_error: of win_rate, as leaderboards
    give it. length_controlled: with `form`, minimal (length alone), noreg (with difficulties) or v1 (anchors, too).

    Raises:
        PrefoptError: a prompt has no difficulty.
    """
    known = [one for one in compared if one.preference is not None]
    prompts = [one.prompt for one in known]
    preferences = [float(one.preference) for one in known if one.preference is not None]
    shares = [float(one.share) for one in known if one.share is not None]
    error = statistics.stdev(preferences) / math.sqrt(len(known)) if len(known) > 1 else None
    found: dict[str, Any] = {
        "prompts": len(set(prompts)),
        "comparisons": len(known),
        "missing": sum(one.fault == "missing" for one in compared),
        "unparsed": sum(one.fault == "unparsed" for one in compared),
        "wins": shares.count(1.0),
        "ties": shares.count(0.5),
        "losses": shares.count(0.0),
        "win_rate": share_interval(preferences, prompts),
        "standard_error": error,
        "discrete_win_rate": share_interval(shares, prompts),
        "characters": {
            side: _mean([len(getattr(one, side)) for one in known]) for side in ("answer", "baseline")
        },
    }
    own = _difficulties(prompts, difficulty) if difficulty is not None else None
    terms = length_terms([len(one.baseline) for one in known], [len(one.answer) for one in known])
    form = "minimal" if own is None else "noreg" if anchors is None else "v1"
    controlled = length_controlled(preferences, terms, own, anchors, prompts)
    return found | {"length_controlled": {"form": f"length_controlled_{form}", **controlled}}


def _mean(values: Sequence[int]) -> float | None:
    return statistics.fmean(values) if values else None


def _difficulties(prompts: Sequence[str], difficulty: Mapping[str, float]) -> list[float]:
    lost = [prompt for prompt in prompts if prompt not in difficulty]
    if lost:
        raise PrefoptError(
            f"win-rate: {len(lost)} prompts have no difficulty, the first: {lost[0][:60]!r}; complete the file or leave "
            "out --difficulty"
        )
    return [difficulty[prompt] for prompt in prompts]


def _anchors(files: Sequence[Path], difficulty: Mapping[str, float]) -> Anchors:
    """All rows of the files; those of one prompt weigh ANCHOR_WEIGHT together."""
    parts: list[tuple[list[float], Any, list[float]]] = []
    for file in files:
        rows = [annotation(row, where) for row, where in read_rows(str(file))]
        rows = [one for one in rows if one.preference is not None and one.prompt in difficulty]
        terms = length_terms([len(one.baseline) for one in rows], [len(one.answer) for one in rows])
        parts.append(
            ([one.preference or 0.0 for one in rows], terms, [difficulty[one.prompt] for one in rows])
        )
    y, terms, own = (
        np.concatenate([np.asarray(part[k], dtype=np.float64) for part in parts]) for k in range(3)
    )
    return Anchors(y, terms, own, np.full(len(y), ANCHOR_WEIGHT / len(files)))


def _warnings(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, found in figures.items():
        total = found["comparisons"] + found["missing"] + found["unparsed"]
        if not found["comparisons"]:
            yield f"{name}: no comparison has a verdict; see the judge's answers."
            continue
        if found["unparsed"] > MANY_UNPARSED * total:
            yield f"{name}: {found['unparsed']} of {total} comparisons are left out, the judge named no winner."
        if found["missing"] > MANY_UNPARSED * total:
            yield f"{name}: {found['missing']} of {total} comparisons are left out, the judge has no verdict on them."
        if found["prompts"] < FEW:
            yield f"{name}: {found['prompts']} prompts are few; intervals are rough."
        plain, controlled = found["win_rate"]["mean"], found["length_controlled"]["mean"]
        if controlled is not None and abs(plain - controlled) > FAR:
            yield f"{name}: equal lengths change the win rate from {plain:.1%} to {controlled:.1%}: much of it is length."


# ---- out


def write_win_rate(found: WinRates, output: Path) -> Path:
    """Write `win-rate.json`, `annotations.json` (AlpacaEval's form) and `verdicts.parquet`; returns the first one's path."""
    if found.verdicts:
        write_table(make_table(found.verdicts), output / TABLE)
    write_json(output / ANNOTATIONS, found.annotations)
    write_json(output / FIGURES, found.figures)
    return output / FIGURES


def print_win_rate(figures: Mapping[str, Any]) -> None:
    """A table on standard output, warnings last."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from prefopt.core.terminal import console, one_line

    screen = console()
    screen.print(Text(f"against {one_line(figures['baseline'])}"))
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("model", "prompts", "win rate, %", "length-controlled, %", "length"):
        table.add_column(title, justify="left" if title == "model" else "right", overflow="fold")
    for name, found in figures["models"].items():
        own, other = (found["characters"][side] for side in ("answer", "baseline"))
        table.add_row(
            Text(one_line(name)), str(found["prompts"]), _share(found["win_rate"]), _share(found["length_controlled"]),
            f"{own / other:.2f}" if other else "-",
        )  # fmt: skip
    screen.print(table)
    left = sum(found["missing"] + found["unparsed"] for found in figures["models"].values())
    if left:
        screen.print(Text(f"{left} comparisons without a verdict are left out"))
    if any(found["length_controlled"]["form"].endswith("minimal") for found in figures["models"].values()):
        screen.print(
            Text("length-controlled by length alone; published figures need --difficulty (docs/evaluate.md)")
        )
    for text in figures["warnings"]:
        screen.print(Text(f"Warning: {one_line(text)}"))


def _share(entry: Mapping[str, Any]) -> str:
    if entry["mean"] is None:
        return "-"
    ends = "" if entry["low"] is None else f" [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
    return f"{100 * entry['mean']:.1f}{ends}"
