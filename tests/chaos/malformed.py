"""Malformed files, columns, recipes, options and models: an exit code of 0 with every row accounted for, or one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.driving import Outcome
from chaos.figures import Figures, spread
from chaos.worlds import World

CASE_S = 40.0  # a command that takes longer counts as one that does not end
# what a terminal would obey; line feeds, returns of progress bars and tabs are ours
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Case:
    """One attempt. lay(home): writes its files and gives the words of the command. rows: that the file holds, where that
    is certain. ends: exit codes that are right. plan: further words for the host (encoding, env).
    """

    name: str
    lay: Callable[[Path], list[str]]
    rows: int | None = None
    ends: tuple[int, ...] = (0, 2)
    plan: dict[str, Any] = field(default_factory=dict)


def run(world: World, folder: Path, cases: Iterable[Case], most: int | None = None, seed: int = 0) -> Figures:
    """Try the cases, an evenly spread share of them where `most` says so."""
    figures = Figures()
    for case in spread(list(cases), most, seed):
        home = folder / "case"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        argv = case.lay(home)
        outcome = world.host.run(argv, home, timeout_s=CASE_S, **case.plan)
        problem = judged(case, outcome, home)
        figures.tracebacks += outcome.has_traceback
        figures.counts["silent_drops"] += "silent" in problem
        figures.counts["did_not_end"] += "does not end" in problem
        figures.note(f"{case.name}: {problem}" if problem else "", refused=outcome.code == 2)
    return figures


def judged(case: Case, outcome: Outcome, home: Path) -> str:
    """What is wrong with the end of a case, if anything."""
    if outcome.code == -9:
        return f"does not end: {outcome.shown()}"
    if outcome.has_traceback or outcome.code not in case.ends:
        return outcome.shown()
    if outcome.code == 2 and not is_one_line(outcome):
        return f"not one line: {outcome.stderr[-300:]!r}"
    if found := OBEYED.search(outcome.stdout + outcome.stderr):
        return f"{found.group()!r} reaches the terminal: {outcome.shown()!r}"
    manifest = home / "out" / "manifest.json"
    if outcome.code == 0 and case.rows is not None and manifest.is_file():
        return _unaccounted(case.rows, json.loads(manifest.read_text()), outcome.stdout)
    return ""


def is_one_line(outcome: Outcome) -> bool:
    """One line of ours, or the command line parser's own (usage, then `Error: ...`)."""
    said = [line for line in outcome.stderr.splitlines() if re.match(r"error:|Error:", line)]
    return len(said) == 1 and len(said[0]) < 2000


def _unaccounted(rows: int, manifest: dict[str, Any], told: str) -> str:
    dropped = {**manifest.get("dropped", {}), **(manifest.get("dropped_at_reading") or {})}
    seen = manifest["rows_out"] + sum(dropped.values())
    if seen != rows:
        return f"silent: {rows} rows in the file, {manifest['rows_out']} out, dropped {dropped}"
    untold = [reason for reason, count in dropped.items() if f"dropped {count}: " not in told]
    return f"silent: nothing is printed of {untold}" if untold else ""
