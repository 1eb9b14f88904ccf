"""`prefopt compare`: finished runs on the prompts that all of them answered, by paired tests with Holm's correction."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.terminal import console, one_line
from prefopt.report.load import load_run
from prefopt.rules.content import text_of
from prefopt.rules.intervals import mcnemar, paired_difference, share_interval, sign_flip
from prefopt.rules.student import holm
from prefopt.stages.evaluate.figures import MODES, pair_margin
from prefopt.tables.records import Row

LEVEL = 0.05
# how answers are drawn and judged; where it differs, a difference may be of the evaluation
SAME = ("n", "temperature", "top_p", "top_k", "max_new_tokens", "system", "verifier", "dtype", "engine")
METRICS = {**MODES, "pair_accuracy": "held-out pairs"}
COLUMNS = ("kind", "mode", "id", "prompt_id", "prompt", "gold", "is_correct", "chosen", "rejected",
           "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens")  # fmt: skip
Outcomes = dict[str, list[float]]  # item -> its outcomes


@dataclass(frozen=True)
class Contestant:
    """An arm of a finished run: outcomes by metric and item, and the settings of its evaluation."""

    name: str
    folder: Path
    arm: str
    outcomes: Mapping[str, Outcomes]
    settings: Mapping[str, Any]


def compare(places: Sequence[str]) -> dict[str, Any]:
    """Every figure that the runs share: `{"runs", "metrics", "warnings"}` (docs/compare.md).

    places: folders of runs, each perhaps with an arm (`runs/a:dpo`, `runs/a:base`); the main arm unless named.

    Raises:
        PrefoptError: fewer than two, no finished run, no such arm, the same twice, or nothing that two of them share.
    """
    if len(places) < 2:
        raise PrefoptError("compare: give at least two runs, or arms of one: RUN:full RUN:base")
    split = [_split(place) for place in places]
    names = _names(split)
    all_ = [_contestant(name, *at) for name, at in zip(names, split, strict=True)]
    metrics = {key: found for key in METRICS if (found := _metric(all_, key))}
    if not metrics:
        raise PrefoptError(
            "compare: the runs share no test prompt and no held-out pair; evaluate them on the same data "
            "(prefopt evaluate, evaluate.data)"
        )
    runs = [{"name": one.name, "folder": str(one.folder), "arm": one.arm} for one in all_]
    return {"runs": runs, "metrics": metrics, "warnings": _warnings(all_, metrics)}


# ---- what is compared


def _split(place: str) -> tuple[Path, str | None]:
    path = Path(place)
    if path.exists() or ":" not in place:
        return path, None
    folder, _, arm = place.rpartition(":")
    return Path(folder), arm


def _names(split: Sequence[tuple[Path, str | None]]) -> list[str]:
    """Short names that differ: the folder's, with the arm where one is named, with folders above it where needed."""
    for depth in range(1, 1 + max(len(path.absolute().parts) for path, _ in split)):
        found = ["/".join(path.absolute().parts[-depth:]) + (f":{arm}" if arm else "") for path, arm in split]
        if len(set(found)) == len(found):
            return found
    twice = next(name for name in found if found.count(name) > 1)
    raise PrefoptError(f"compare: {twice} is given twice; name different runs or arms")


def _contestant(name: str, folder: Path, arm: str | None) -> Contestant:
    run = load_run(folder)
    chosen = arm or run.main
    if chosen not in run.summary["folders"]:
        raise PrefoptError(f"{folder}: no arm {chosen!r}, {nearest(chosen, run.summary['folders'])}")
    rows = run.rows(chosen, "evaluate", COLUMNS)
    if not rows:
        raise PrefoptError(f"{folder}: arm {chosen!r} was not evaluated; set evaluate in its recipe")
    outcomes = {mode: _samples(rows, MODES[mode]) for mode in MODES}
    outcomes["pair_accuracy"] = _pairs(rows)
    return Contestant(name, folder, chosen, outcomes, run.manifest(chosen, "evaluate").get("config") or {})


def _samples(rows: Sequence[Row], mode: str) -> Outcomes:
    found: Outcomes = {}
    for row in rows:
        if row["kind"] == "sample" and row["mode"] == mode and row["is_correct"] is not None:
            item = json.dumps([text_of(row["prompt"]), row.get("gold")], default=str)
            found.setdefault(item, []).append(float(row["is_correct"]))
    return found


def _pairs(rows: Sequence[Row]) -> Outcomes:
    found: Outcomes = {}
    for row in rows:
        margin = pair_margin(row, "logp") if row["kind"] == "pair" else None
        if margin is not None:
            item = json.dumps([text_of(row[side]) for side in ("prompt", "chosen", "rejected")])
            found.setdefault(item, []).append(0.5 if margin == 0 else float(margin > 0))
    return found


# ---- figures


def _metric(all_: Sequence[Contestant], key: str) -> dict[str, Any] | None:
    """One metric over the items that all contestants with it share; None where fewer than two have it."""
    having = [one for one in all_ if one.outcomes[key]]
    items = sorted(set.intersection(*(set(one.outcomes[key]) for one in having))) if having else []
    if len(having) < 2 or not items:
        return None
    means = {one.name: _means(one, key, items) for one in having}
    rows = [
        _statement(a.name, b.name, means, _grouping(items, key)) for b, a in itertools.combinations(having, 2)
    ]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
        clear = p < LEVEL
        row["verdict"] = ("better" if row["mean"] > 0 else "worse") if clear else "no clear difference"
    own = {one.name: _own(one, key, items) for one in having}
    left = {one.name: len(one.outcomes[key]) - len(items) for one in having}
    return {"items": len(items), "left_out": left, "figures": own, "paired": rows}


def _means(one: Contestant, key: str, items: Sequence[str]) -> list[float]:
    return [sum(one.outcomes[key][item]) / len(one.outcomes[key][item]) for item in items]


def _grouping(items: Sequence[str], key: str) -> list[str]:
    """The prompt of every item: pairs of one prompt are not independent."""
    return [json.loads(item)[0] for item in items] if key == "pair_accuracy" else list(items)


def _own(one: Contestant, key: str, items: Sequence[str]) -> dict[str, Any]:
    values = [value for item in items for value in one.outcomes[key][item]]
    prompts = [
        prompt
        for prompt, item in zip(_grouping(items, key), items, strict=True)
        for _ in one.outcomes[key][item]
    ]
    return share_interval(values, prompts)


def _statement(a: str, b: str, means: Mapping[str, list[float]], groups: Sequence[str]) -> dict[str, Any]:
    """a minus b: difference with its 95% interval, and p of McNemar's test or, of shares, of random signs over prompts."""
    after, before = means[a], means[b]
    steps = [x - y for x, y in zip(after, before, strict=True)]
    single = len(set(groups)) == len(groups)
    gained, lost = sum(step > 0 for step in steps), sum(step < 0 for step in steps)
    if single and set(after) | set(before) <= {0.0, 1.0}:
        test, p = "McNemar, mid-p", mcnemar(gained, lost)["midp"]
    else:
        sums: dict[str, float] = {}
        for group, step in zip(groups, steps, strict=True):
            sums[group] = sums.get(group, 0.0) + step
        test, p = "random signs over prompts", sign_flip(list(sums.values()))
    change = paired_difference(before, after, groups)
    return {"a": a, "b": b, **change, "gained": gained, "lost": lost, "test": test, "p": p}


def _warnings(all_: Sequence[Contestant], metrics: Mapping[str, Any]) -> list[str]:
    found = []
    first = all_[0]
    for one in all_[1:]:
        differing = [key for key in SAME if first.settings.get(key) != one.settings.get(key)]
        if differing:
            found.append(
                f"{first.name} and {one.name} were evaluated otherwise ({', '.join(differing)}): a difference may be of that."
            )
    for key, metric in metrics.items():
        lost = max(metric["left_out"].values())
        if lost > metric["items"]:
            found.append(
                f"{METRICS[key]}: only {metric['items']} items are shared; up to {lost} of a run are left out."
            )
        if metric["items"] < 30:
            found.append(f"{METRICS[key]}: {metric['items']} items are few; intervals are rough.")
    return found


# ---- shown


def print_compare(found: Mapping[str, Any]) -> None:
    """Tables of every metric on standard output, warnings last."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console()
    for key, metric in found["metrics"].items():
        what = "pairs" if key == "pair_accuracy" else "prompts"
        screen.print(Text(f"{METRICS[key]}, {metric['items']:,} {what} that all have"))
        own = Table(box=box.SIMPLE_HEAD)
        for title in ("run", "share", "95% interval"):
            own.add_column(title, justify="left" if title == "run" else "right", overflow="fold")
        for name, entry in metric["figures"].items():
            own.add_row(Text(one_line(name)), f"{100 * entry['mean']:.1f}%", _interval(entry))
        screen.print(own)
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("a minus b", "points", "95% interval", "gained, lost", "p (Holm)", ""):
            table.add_column(
                title, justify="left" if title in ("a minus b", "") else "right", overflow="fold"
            )
        for row in metric["paired"]:
            table.add_row(
                Text(f"{one_line(row['a'])} - {one_line(row['b'])}"), f"{100 * row['mean']:+.1f}", _interval(row, sign="+"),
                f"{row['gained']}, {row['lost']}", f"{row['p']:.3g} ({row['p_holm']:.3g})", row["verdict"],
            )  # fmt: skip
        screen.print(table)
    for text in found["warnings"]:
        screen.print(Text(f"Warning: {one_line(text)}"))


def _interval(entry: Mapping[str, Any], sign: str = "") -> str:
    if entry["low"] is None:
        return ""
    return f"[{100 * entry['low']:{sign}.1f}, {100 * entry['high']:{sign}.1f}]"


def write_compare(found: Mapping[str, Any], output: Path) -> Path:
    """`compare.json` and `compare.html` in the folder `output`; returns the page's path.

    Raises:
        PrefoptError: the folder cannot be written, or holds other things under these names.
    """
    from prefopt.report.compared import compared_page
    from prefopt.tables.ours import check_file
    from prefopt.tables.records import atomic_file, write_json

    page = output / "compare.html"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefoptError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    check_file(page)
    write_json(output / "compare.json", dict(found))
    with atomic_file(page) as temporary:
        temporary.write_bytes(compared_page(found).encode("utf-8"))
    return page
