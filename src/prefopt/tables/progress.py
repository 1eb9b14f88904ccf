"""Progress on stderr: a bar on a terminal; without one, plain lines that a log can keep. Where in a run it is stands before both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from prefopt.core.notice import is_first_process
from prefopt.core.terminal import console

MUCH = 0.1  # from this share of dropped rows on a line is a warning
MEANT = ("not selected",)  # reasons that a setting asks for
_WHERE: ContextVar[tuple[str, ...]] = ContextVar("where", default=())


@contextmanager
def within(place: str) -> Iterator[None]:
    """What is done in the block is a part of `place`, e.g. `arm dpo` or `stage 3 of 9`; for display alone."""
    token = _WHERE.set((*_WHERE.get(), place) if place else _WHERE.get())
    try:
        yield
    finally:
        _WHERE.reset(token)


def where() -> str:
    """The places that are now worked in, the outermost last: `stage 3 of 9, round 2 of 3, arm dpo`; empty outside of a run."""
    return ", ".join(reversed(_WHERE.get()))


def say(text: str) -> None:
    """A line on stderr, after where in the run it is; of several processes the first speaks."""
    if is_first_process():
        place = where()
        sys.stderr.write(f"[{place}] {text}\n" if place else f"{text}\n")
        sys.stderr.flush()


def on_terminal() -> bool:
    """Whether somebody watches: bars are drawn, else lines written."""
    return sys.stderr.isatty()


@dataclass
class Advance:
    """What a pass tells of itself: called with how many units are done, `note` with figures worth a line."""

    label: str
    move: Callable[[int], None]
    write: Callable[[str], None] = field(default=lambda text: None)

    def __call__(self, count: int) -> None:
        """`count` more are done."""
        self.move(count)

    def note(self, text: str) -> None:
        """Figures of now: beside the bar, or a line of their own."""
        self.write(text)


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """Yields `advance(count)`, which moves a bar; without a terminal only its notes are seen, as lines."""
    if not on_terminal() or not is_first_process():
        yield Advance(label, lambda count: None, lambda text: say(f"{label}: {text}"))
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    place = f"[{where()}] " if where() else ""
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task(escape(f"{place}{label}"), total=total, note="")
        yield Advance(
            label,
            lambda count: bar.advance(task, count),
            lambda text: bar.update(task, note=escape(text)),
        )


def shown_drops(dropped: Mapping[str, int], rows: int) -> str:
    """`dropped 5 of 100 rows (5.0%): too long 3, empty 2`; empty where none was."""
    lost = sum(dropped.values())
    if not lost:
        return ""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dropped.items(), key=_most))
    return f"dropped {lost:,} of {rows:,} rows ({100 * lost / max(rows, 1):.1f}%): {reasons}"


def worrying_drops(dropped: Mapping[str, int], rows: int) -> str:
    """`shown_drops` where it is more than a tenth of the rows, what a setting asks for aside; else empty."""
    lost = sum(count for reason, count in dropped.items() if reason not in MEANT)
    return shown_drops(dropped, rows) if lost > MUCH * rows else ""


def rows_seen(manifest: Mapping[str, Any]) -> int:
    """Rows that a stage has had before it, as its drops count them: what came in, or what came out and was dropped."""
    lost = sum((manifest.get("dropped") or {}).values())
    return max(int(manifest.get("rows_in") or 0), int(manifest.get("rows_out") or 0) + lost)


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
