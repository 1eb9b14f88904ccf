"""Sampling from a server that answers wrongly, once or always, then rightly: no answer is lost, none is poisoned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from chaos.faults import FAULTS, REFUSED, RETRIED, FaultyServer
from chaos.figures import Figures, spread
from chaos.worlds import World

SETTINGS = ["--n", "2", "--max_new_tokens", "8", "--server.model", "m", "--server.retries", "2", "--server.backoff_s", "0.001",
            "--server.timeout_s", "2.5", "--server.concurrency", "4", "--server.give_up_after", "6"]  # fmt: skip
ROWS = 32  # answers: 16 prompts, two each


def run(world: World, folder: Path, most: int | None = None, seed: int = 0) -> Figures:
    """Every fault once per request, and always; then the server is well and the command is given again."""
    figures = Figures()
    for number, name in enumerate(spread(list(FAULTS), most, seed)):
        for always in (False, True) if most is None else (bool(number % 2),):
            with FaultyServer() as server:
                problem = _attempt(world, folder / "server", server, name, always, figures)
            figures.note(f"{name}, {'always' if always else 'once'}: {problem}" if problem else "")
    figures.counts["kinds_of_faults"] = len(FAULTS)
    return figures


def _attempt(
    world: World, home: Path, server: FaultyServer, name: str, always: bool, figures: Figures
) -> str:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    server.fault, server.always = name, always
    argv = ["sample", "--input", str(world.root / "data"), "--output", "out", "--engine", "server", "--server.base_url", server.url,
            *SETTINGS]  # fmt: skip
    first = world.host.run(argv, home, timeout_s=90)
    figures.tracebacks += first.has_traceback
    if first.code == -9:
        return f"does not end: {first.shown()}"
    if first.has_traceback or first.code not in (0, 2) or (first.code == 2 and not first.is_refusal):
        return first.shown()
    if "\x1b" in first.stdout + first.stderr or "\u202e" in first.stderr:
        return f"an escape reaches the terminal: {first.stderr!r}"
    met = FAULTS[name][1]
    if met == RETRIED and not always and (first.code != 0 or "dropped" in first.stdout):
        return f"was not retried: {first.shown()} {first.stdout[-200:]}"
    if met == REFUSED and first.code == 0 and not always and "dropped" not in first.stdout:
        return f"refused rows are not counted: {first.stdout[-200:]}"
    if problem := _accounted(home, first.code, first.stdout):
        return problem
    server.fault = None
    again = world.host.run(argv, home, timeout_s=90)
    figures.tracebacks += again.has_traceback
    if met == REFUSED and always and again.is_refusal:
        return ""  # the server refuses the settings themselves, whenever it is asked
    if again.code != 0:
        return f"{first.shown()}; then, with a server that is well: {again.shown()}"
    return _accounted(home, 0, again.stdout)


def _accounted(home: Path, code: int, told: str) -> str:
    """Every answer is in the table or counted among the dropped."""
    if code != 0:
        return ""

    manifest: dict[str, Any] = json.loads((home / "out" / "manifest.json").read_text())
    dropped = manifest["dropped"]
    seen = manifest["rows_out"] + sum(dropped.values())
    if seen != ROWS:
        return f"{ROWS} answers asked for, {manifest['rows_out']} rows, dropped {dropped}"
    untold = [reason for reason, count in dropped.items() if f"dropped {count}: " not in told]
    return f"nothing is printed of {untold}" if untold else ""
