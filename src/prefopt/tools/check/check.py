"""`prefopt check`: what is wrong with a file of preference data, and a copy without the rows that are plainly of no use.

Any file that the reader knows. Nothing is changed in place. The cleaned copy holds the file's own rows, as they are, in
their order; by default those leave that no stage could use or that stand there twice (`SAFE`).
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.terminal import console as make_console
from prefopt.rules.intervals import share_interval
from prefopt.stages.data.reading.readers import source_digest
from prefopt.tables.lock import working_in
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import Claims, OwnedFolder
from prefopt.tables.progress import progress
from prefopt.tables.records import atomic_file, digest, write_json
from prefopt.tools.check.findings import FINDINGS, Checking, Hit
from prefopt.tools.check.items import Checked, Item, answers_of, read_items
from prefopt.tools.check.near import TestPrompts, index_tests
from prefopt.tools.check.settings import CheckConfig


@dataclass(frozen=True)
class CheckResult:
    """`report`: what check.json holds. `kept`: the rows (as in the file) that are left."""

    report: dict[str, Any]
    kept: list[dict[str, Any]]


def check(source: str, config: CheckConfig | None = None, *, test: str | None = None) -> CheckResult:
    """Look for every kind of `FINDINGS` in a file; `test` names the file whose prompts must not be in it.

    Raises:
        PrefoptError: a file cannot be read, or its format is not known.
    """
    config = config or CheckConfig()  # type: ignore[call-arg]
    checked = read_items(source, kind=config.kind, split=config.split, columns=config.columns)
    tests = _tests(test, config) if test else None
    with progress("check", len(FINDINGS)) as advance:
        data = Checking(checked, config, tests)
        hits: dict[str, list[Hit]] = {}
        for name, finding in FINDINGS.items():
            hits[name] = list(finding.find(data))
            advance(1)
    gone = {hit.number for name in config.remove for hit in hits[name]}
    kept = [item.raw for item in checked.items if item.number not in gone]
    report = {
        "file": source,
        "digest": source_digest(source, config.split),
        "test": test,
        "kind": checked.form.kind,
        "format": checked.form.name,
        "rows": len(checked.items),
        "rows_kept": len(kept),
        "prompts": len({item.prompt_key for item in checked.usable}),
        "findings": {name: _finding(name, hits[name], checked, config) for name in FINDINGS},
        "length": length_figures(checked),
        "scores": score_figures(checked),
        "settings": config.model_dump(mode="json"),
    }
    return CheckResult(report, kept)


def _tests(source: str, config: CheckConfig) -> TestPrompts:
    items = read_items(source).items
    return index_tests([item.prompt for item in items], config.containment_ngram)


def _finding(name: str, hits: Sequence[Hit], checked: Checked, config: CheckConfig) -> dict[str, Any]:
    names = {item.number: item.name for item in checked.items}
    reasons = Counter(hit.note for hit in hits) if name in ("unusable", "empty") else None
    examples = []
    for hit in hits[: config.examples]:
        example: dict[str, Any] = {"row": hit.number, "id": names[hit.number]}
        if hit.other is not None:
            example |= {"with_row": hit.other, "with_id": names[hit.other]}
        examples.append(example | ({"note": hit.note} if hit.note else {}))
    found = {
        "rows": len(hits),
        "share": len(hits) / len(checked.items),
        "removed": name in config.remove,
        "about": FINDINGS[name].about,
        "examples": examples,
    }
    return found | ({"reasons": dict(sorted(reasons.items()))} if reasons else {})


# ---- figures


def length_figures(checked: Checked) -> dict[str, Any] | None:
    """Length bias in characters: how often the better answer is the longer one (a tie counts half), and by how much.

    Better is chosen (pairs), the highest-scored completion against the lowest (completions), desired (unpaired: the
    chance that a desired answer is longer than another, without an interval). None where nothing is better.
    """
    kind = checked.form.kind
    if kind == "unpaired":
        return _unpaired_lengths(checked.usable)
    sides = [(item.prompt_key, side) for item in checked.usable if (side := _sides(item, kind)) is not None]
    if not sides:
        return None
    differences = [len(better) - len(worse) for _, (better, worse) in sides]
    longer = [0.5 if d == 0 else float(d > 0) for d in differences]
    return {
        "longer_is_better": share_interval(longer, [prompt for prompt, _ in sides]),
        "same_length": sum(d == 0 for d in differences),
        "difference_chars": {
            "mean": statistics.fmean(differences),
            **_quantiles(differences),
        },
        "better_chars_mean": statistics.fmean(len(better) for _, (better, _) in sides),
        "worse_chars_mean": statistics.fmean(len(worse) for _, (_, worse) in sides),
    }


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20) if len(values) > 1 else [float(values[0])] * 19
    return {"p5": cuts[0], "p25": cuts[4], "median": cuts[9], "p75": cuts[14], "p95": cuts[18]}


def _sides(item: Item, kind: str) -> tuple[str, str] | None:
    """The better and the worse answer of a row."""
    assert item.row is not None
    if kind == "pairs":
        both = answers_of(item, kind)
        return both["chosen"], both["rejected"]
    if kind != "completions":
        return None
    entries = item.row["completions"]
    scored = [
        (float(score), entry["completion"])
        for entry in entries
        if isinstance(score := entry.get("score", entry.get("is_correct")), bool | int | float)
        and isinstance(entry.get("completion"), str)
    ]
    best, worst = (f(scored, key=lambda s: s[0], default=None) for f in (max, min))
    return (best[1], worst[1]) if best and worst and best[0] > worst[0] else None


def _unpaired_lengths(items: Sequence[Item]) -> dict[str, Any] | None:
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for item in items:
        assert item.row is not None
        lengths[item.row["label"]].append(len(answers_of(item, "unpaired")["completion"]))
    if not all(lengths.values()):
        return None
    others = sorted(lengths[False])
    from bisect import bisect_left, bisect_right

    wins = sum(bisect_left(others, n) + bisect_right(others, n) for n in lengths[True]) / 2
    mean = wins / (len(others) * len(lengths[True]))
    return {
        "longer_is_better": {"mean": mean, "low": None, "high": None, "n": len(items)},
        "better_chars_mean": statistics.fmean(lengths[True]),
        "worse_chars_mean": statistics.fmean(others),
    }


def score_figures(checked: Checked) -> dict[str, Any] | None:
    """Scores of the better and worse side (pairs) or of all completions: count, range, constant or not; None for none."""
    values: dict[str, list[float]] = {}
    for item in checked.usable:
        assert item.row is not None
        if checked.form.kind == "pairs":
            for name in ("score_chosen", "score_rejected"):
                if item.row.get(name) is not None:
                    values.setdefault(name, []).append(item.row[name])
        for entry in item.row.get("completions") or () if checked.form.kind == "completions" else ():
            score = entry.get("score")
            if isinstance(score, int | float) and not isinstance(score, bool) and score == score:
                values.setdefault("score", []).append(float(score))
    return {
        name: {
            "n": len(v),
            "min": min(v),
            "max": max(v),
            "mean": statistics.fmean(v),
            "constant": min(v) == max(v),
        }
        for name, v in values.items()
    } or None


# ---- out


def check_output(source: str, output: Path) -> OwnedFolder:
    """The folder for the cleaned copy of `source` and its figures.

    Raises:
        PrefoptError: it holds other things than an earlier check, or the file that is checked.
    """
    file = Path(source.rsplit(":", 1)[-1])
    check_apart(output, [("file that is checked", file)])
    name = f"{file.name.split('.')[0] or 'data'}.jsonl"
    folder = OwnedFolder(output, Claims("check", (name, "check.json")))
    folder.check()
    return folder


def write_check(result: CheckResult, output: Path) -> Path:
    """Write the cleaned copy (JSON lines) and `check.json` into the folder `output`; returns the copy's path.

    Raises:
        PrefoptError: as `check_output`, another process works there, or the copy cannot be written.
    """
    folder = check_output(result.report["file"], output)
    path = output / folder.claims.files[0]
    with working_in(output):
        folder.begin(digest("check", result.report))
        with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in result.kept)
        write_json(output / "check.json", {**result.report, "cleaned": path.name})
        folder.close()
    return path


def print_check(report: Mapping[str, Any]) -> None:
    """The findings as a table on standard output, then lengths and scores; texts of the file are escaped."""
    from rich import box
    from rich.table import Table

    from prefopt.tools.inspect import escape as visible

    console = make_console()
    say = lambda text: console.print(text, highlight=False, markup=False)  # noqa: E731
    say(f"{report['file']}: {report['rows']} rows, {report['prompts']} prompts ({report['kind']})")
    table = Table(box=box.SIMPLE_HEAD)
    for title, justify in (
        ("finding", "left"),
        ("rows", "right"),
        ("share", "right"),
        ("for example", "left"),
    ):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    clean = []
    for name, found in report["findings"].items():
        if not found["rows"]:
            clean.append(name)
            continue
        example = visible(_example(found["examples"])).replace("[", r"\[")
        removed = " (removed)" if found["removed"] else ""
        table.add_row(name + removed, str(found["rows"]), f"{100 * found['share']:.1f}%", example)
    if len(clean) < len(report["findings"]):
        console.print(table)
    say(f"nothing found: {', '.join(clean)}")
    for line in _figure_lines(report):
        say(line)


def _example(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    first = examples[0]
    beside = f" = {first['with_id']}" if "with_id" in first else ""
    note = f": {first['note']}" if "note" in first else ""
    return f"{first['id']}{beside}{note}"


def _figure_lines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if (length := report["length"]) is not None:
        share = length["longer_is_better"]
        interval = (
            f" [{100 * share['low']:.1f}, {100 * share['high']:.1f}]" if share["low"] is not None else ""
        )
        lines.append(f"the better answer is the longer one: {100 * share['mean']:.1f}%{interval}")
        means = f"{length['better_chars_mean']:.0f} against {length['worse_chars_mean']:.0f}"
        lines.append(f"mean length, characters, better against worse: {means}")
        if "difference_chars" in length:
            d = length["difference_chars"]
            lines.append(
                f"difference: median {d['median']:.0f}, from {d['p5']:.0f} (5%) to {d['p95']:.0f} (95%)"
            )
    for name, s in (report["scores"] or {}).items():
        constant = (
            ", constant: says nothing about single rows" if s["constant"] else f", mean {s['mean']:.3g}"
        )
        lines.append(f"{name}: {s['n']} values, {s['min']:g} to {s['max']:g}{constant}")
    return lines
