"""The result of a run in one object (`summary.json`, schema in docs/summary.md) and as a table on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prefopt.core.terminal import console as make_console
from prefopt.report.verdict import alike_once, arm_name, smoke_note, verdict, warnings_of
from prefopt.rules.intervals import share_interval
from prefopt.stages.concerns import concerns
from prefopt.stages.evaluate.figures import against, change, pair_margin
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, rows_of
from prefopt.tables.table_rows import read_table

if TYPE_CHECKING:
    from prefopt.stages.running import Done

BASE = "base"


class Described(Protocol):
    """What a summary says of the recipe."""

    @property
    def name(self) -> str:
        """Name of the run."""

    @property
    def about(self) -> str:
        """One sentence for the report."""

    @property
    def seed(self) -> int:
        """Seed of the whole run."""

    @property
    def model(self) -> str:
        """The model as it was named."""

    def given(self) -> dict[str, Any]:
        """The settings that were given, as plain data."""


Summary = dict[str, Any]
Chain = Mapping[str, "Done"]
# columns of 08's table that the comparisons read; texts stay on disk
COMPARED = ("kind", "mode", "id", "prompt_id", "completion_index", "is_correct", "chosen_logps", "rejected_logps",
            "ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens")  # fmt: skip


def summarize(
    output: Path,
    recipe: Described,
    chains: Mapping[str, Chain],
    evaluated: Mapping[str, Done],
    seconds: float,
    rounds: Mapping[str, Sequence[tuple[Chain, Done | None]]] | None = None,
) -> Summary:
    """What `summary.json` holds; writes nothing.

    chains: arm -> stage -> finished stage, in the recipe's order, the last is the main arm. evaluated: `base` and arm ->
    finished 08-evaluate. seconds: wall-clock of the whole run. rounds: arm -> its rounds in order, each with its 08.
    """
    main = list(chains)[-1]
    tables = {arm: _compared(done) for arm, done in evaluated.items()}
    figures = {arm: _quality(done) for arm, done in evaluated.items()}
    folders = _folders(output, chains, evaluated)
    summary: Summary = {
        "recipe": recipe.name,
        "about": recipe.about,
        "seed": recipe.seed,
        "model": recipe.model,
        "main": main,
        "arms": {arm: _arm(chain) for arm, chain in chains.items()},
        "headline": None,
        "accuracy": _by_arm(figures, "accuracy"),
        "greedy": _by_arm(figures, "greedy"),
        "pass_at_k": _by_arm(figures, "pass_at_k"),
        "maj_at_k": _by_arm(figures, "maj_at_k"),
        "constraints": _by_arm(figures, "constraints"),
        "mean_tokens": _mean_tokens(figures),
        "pair_accuracy": _pair_accuracy(tables),
        "separation": _by_arm(figures, "separation"),
        "chosen_drift": _drift(figures, tables, "nats"),
        "chosen_drift_share": _drift(figures, tables, "share"),
        "paired": _paired(tables, main),
        "rounds": _rounds(output, rounds or {}, tables.get(BASE, ())),
    }
    summary["headline"] = next(
        (name for name in ("accuracy", "greedy", "pair_accuracy") if summary[name]), None
    )
    said = [*_concerns(output, folders), *warnings_of(summary), *smoke_note(recipe.model)]
    summary["warnings"] = alike_once(said)
    summary["verdict"] = verdict(summary) + summary["warnings"]
    summary["flow"] = _flow(output, chains[main], evaluated.get(main))
    summary["folders"] = folders
    summary["seconds"] = round(seconds, 2)
    earlier = {
        f"{arm} {r['round']}": r["folders"] for arm, done in (summary["rounds"] or {}).items() for r in done
    }
    summary["stage_seconds"] = _stage_seconds(output, {**folders, **earlier})
    summary["failed"] = _failed(output, {**folders, **earlier})
    summary["settings"] = recipe.given()
    return summary


def _rounds(
    output: Path, rounds: Mapping[str, Sequence[tuple[Chain, Done | None]]], base: Sequence[Row]
) -> dict[str, Any] | None:
    """arm -> what every round reached, on the same test prompts and held-out pairs; null for recipes of one round."""
    found: dict[str, list[dict[str, Any]]] = {}
    for arm, chains in rounds.items():
        for number, (chain, evaluated) in enumerate(chains, start=1):
            figures = _quality(evaluated) if evaluated else {}
            tables = {BASE: base, arm: _compared(evaluated) if evaluated else []}
            trained = _quality(chain["train"]) if "train" in chain else {}
            both = {**chain, **({"evaluate": evaluated} if evaluated else {})}
            found.setdefault(arm, []).append({
                "round": number,
                "accuracy": figures.get("accuracy"),
                "greedy": figures.get("greedy"),
                "pair_accuracy": (_pair_accuracy(tables) or {}).get(arm),
                "pairs": trained.get("pairs"),
                "steps": trained.get("steps"),
                "folders": {name: _place(done, output) for name, done in both.items()},
            })  # fmt: skip
    return found or None


def _quality(done: Done) -> dict[str, Any]:
    return (done.folder.manifest or {}).get("quality") or {}


def _compared(done: Done) -> list[Row]:
    table = done.folder.table()
    return rows_of(table.select_columns([name for name in COMPARED if name in table.column_names]))


def _arm(chain: Chain) -> dict[str, Any]:
    """What an arm was: its loss terms, training pairs, steps, and the trainer's warnings."""
    found = _quality(chain["train"]) if "train" in chain else {}
    return (
        {name: found.get(name) for name in ("loss", "pairs", "steps", "warnings")}
        if found
        else {"loss": None}
    )


def _by_arm(figures: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """The figure of every arm that has it; null when none has."""
    found = {arm: quality[name] for arm, quality in figures.items() if quality.get(name)}
    return found or None


def _mean_tokens(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    found = {}
    for arm, quality in figures.items():
        modes = quality.get("completions") or {}
        length = (modes.get("sampled") or modes.get("greedy") or {}).get("completion_tokens_mean")
        if length is not None:
            found[arm] = length
    return found or None


# ---- held-out pairs


def _pairs(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows if row["kind"] == "pair"}


def _ranked(row: Row) -> float:
    """Whether the model gives the chosen answer the higher log-prob (sum): 1, 0, or 0.5 for a tie."""
    margin = pair_margin(row, "logp")
    return 0.5 if not margin else float(margin > 0)


def _pair_accuracy(tables: Mapping[str, Sequence[Row]]) -> dict[str, Any] | None:
    """Share of held-out pairs whose chosen answer has the higher log-prob, before (base) and after training.

    `reward`: the share by implicit reward (change of the log-probs), which is 0.5 before training.
    """
    base = _pairs(tables.get(BASE, ()))
    if not base:
        return None
    before = _pair_interval(base.values(), [_ranked(row) for row in base.values()])
    found: dict[str, Any] = {BASE: before}
    for arm, rows in tables.items():
        pairs = _pairs(rows)
        if arm == BASE or not pairs:
            continue
        found[arm] = _pair_interval(pairs.values(), [_ranked(row) for row in pairs.values()])
        both = [row for name, row in pairs.items() if name in base]
        rewards = [_gain(base[row["id"]], row) for row in both]
        found[arm] |= {"before": before, "reward": _pair_interval(both, rewards) if both else None}
    return found


def _gain(before: Row, after: Row) -> float:
    change = (pair_margin(after, "logp") or 0.0) - (pair_margin(before, "logp") or 0.0)
    return 0.5 if change == 0 else float(change > 0)


def _pair_interval(rows: Any, outcomes: Sequence[float]) -> dict[str, Any]:
    return {**share_interval(outcomes, [row["prompt_id"] for row in rows]), "pairs": len(outcomes)}


def _drift(
    figures: Mapping[str, Mapping[str, Any]], tables: Mapping[str, Sequence[Row]], unit: str
) -> dict[str, float] | None:
    """Mean change of the log-prob of held-out chosen answers since the base model: nats, or share of its size."""
    base = _pairs(tables.get(BASE, ()))
    found = {}
    for arm, rows in tables.items():
        both = [(base[name], row) for name, row in _pairs(rows).items() if name in base]
        if arm == BASE or not both:
            continue
        change = sum(after["chosen_logps"] - before["chosen_logps"] for before, after in both)
        size = sum(abs(before["chosen_logps"]) for before, _ in both)
        value = change / len(both) if unit == "nats" else change / size if size else 0.0
        found[arm] = value
    return found or None


# ---- one arm against another


def _paired(tables: Mapping[str, Sequence[Row]], main: str) -> dict[str, Any]:
    """arm -> other arm -> metric -> paired difference: every arm against base, the main arm against all."""
    arms = [arm for arm in tables if arm != BASE]
    wanted = [(arm, BASE) for arm in arms] + [(main, arm) for arm in arms if arm != main]
    found: dict[str, Any] = {}
    for arm, other in wanted:
        if arm in tables and other in tables:
            change: dict[str, Any] = against(tables[other], tables[arm])
            change["pair_accuracy"] = _pair_change(_pairs(tables[other]), _pairs(tables[arm]))
            found.setdefault(arm, {})[other] = {name: value for name, value in change.items() if value}
    return found


def _pair_change(before: Mapping[str, Row], after: Mapping[str, Row]) -> dict[str, Any] | None:
    both = [name for name in after if name in before]
    old, new = [_ranked(before[name]) for name in both], [_ranked(after[name]) for name in both]
    return change(old, new, [after[name]["prompt_id"] for name in both])


# ---- where everything is


def _folders(
    output: Path, chains: Mapping[str, Chain], evaluated: Mapping[str, Done]
) -> dict[str, dict[str, str]]:
    """arm (and base) -> stage -> folder within the run; arms share the stages before their first difference."""
    found: dict[str, dict[str, str]] = {BASE: {}} if BASE in evaluated else {}
    for arm, chain in chains.items():
        found[arm] = {name: _place(done, output) for name, done in chain.items()}
    for arm, done in evaluated.items():
        found[arm]["evaluate"] = _place(done, output)
    return found


def _place(done: Done, output: Path) -> str:
    return done.folder.path.relative_to(output).as_posix()


def _flow(output: Path, chain: Chain, evaluated: Done | None) -> list[dict[str, Any]]:
    """The main arm's stages in order, skipped ones with their reason."""
    finished = dict(chain) | ({"evaluate": evaluated} if evaluated else {})
    steps = []
    for name, done in finished.items():
        manifest = done.folder.manifest or {}
        step = {"stage": name, "number": _number(done.folder.path), "rows_in": manifest.get("rows_in"),
                "rows_out": manifest.get("rows_out"), "dropped": manifest.get("dropped") or {}}  # fmt: skip
        kept = ((manifest.get("quality") or {}).get("counts") or {}).get("kept")
        if name == "select" and kept is not None:
            step["kept"] = kept
        steps.append(step)
    for path in sorted(output.glob("[0-9][0-9]-*.skipped.json")):
        skip = json.loads(path.read_text(encoding="utf-8"))
        if skip["stage"] not in finished:
            steps.append({"stage": skip["stage"], "number": _number(path), "skipped": skip["skipped"]})
    return sorted(steps, key=lambda step: step["number"])


def _concerns(output: Path, folders: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What the stages dropped, cut or got empty, by more than a tenth; a stage that arms share once."""
    places = dict.fromkeys(place for stages in folders.values() for place in stages.values())
    found = {place: concerns(StageFolder(output / place).manifest or {}) for place in sorted(places)}
    return [f"Warning ({place}): {text}." for place, texts in found.items() for text in texts]


def _number(path: Path) -> int:
    return int(path.name.split("-")[0])


def _stage_seconds(output: Path, folders: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Folder -> wall-clock seconds of the stage when it ran last."""
    found = {}
    for place in sorted({place for stages in folders.values() for place in stages.values()}):
        path = output / place / "timings.parquet"
        if path.is_file():
            timings = rows_of(read_table(path))
            found[place] = round(sum(row["seconds"] for row in timings if row["what"] == "stage"), 2)
    return found


def _failed(output: Path, folders: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Folder -> rows that a server gave up on, where there are any."""
    places = sorted({place for stages in folders.values() for place in stages.values()})
    return {place: failed for place in places if (failed := StageFolder(output / place).failed)}


# ---- on the terminal


def print_summary(summary: Summary, report_path: Path | None = None) -> None:
    """A table of the arms, the verdict, and the report's path (if any) on a line of its own, on standard output."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    console = make_console()
    columns = [(name, title) for name, title in _TITLES if summary.get(name)]
    if columns:
        table = Table(box=box.SIMPLE_HEAD, title=None)
        table.add_column("arm", no_wrap=True, vertical="bottom")
        for _, title in columns:
            table.add_column(title, justify="right", no_wrap=True)
        arms = [arm for arm in summary["arms"] if arm != summary["main"]]
        for arm in (BASE, *arms, summary["main"]):
            cells = [_terminal_cell(name, (summary[name] or {}).get(arm)) for name, _ in columns]
            table.add_row(
                escape(arm_name(summary, arm)), *cells, style="bold" if arm == summary["main"] else None
            )
        console.print(table)
    for said in summary["verdict"]:
        console.print(escape(said), highlight=False)
    console.print(f"{len(summary['arms'])} arm(s), {summary['seconds']:.0f} s", highlight=False, style="dim")
    if report_path is not None:  # not wrapped, so that it can be clicked and copied
        console.print(escape(str(report_path)), highlight=False, soft_wrap=True)


_TITLES = (
    ("accuracy", "sampled\naccuracy"),
    ("greedy", "greedy\naccuracy"),
    ("pair_accuracy", "held-out\npairs"),
    ("chosen_drift", "chosen drift,\nnats"),
)


def _terminal_cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "chosen_drift":
        return f"{value:+.2f}"
    mean = f"{100 * value['mean']:.1f}%"
    return (
        mean
        if name == "greedy" or value["low"] is None
        else f"{mean} \\[{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    )
