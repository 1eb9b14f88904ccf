"""Progress bars with steps per second and a running value (a return)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefopt.core.terminal import console


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on stderr; yields `advance(count, steps=..., value=..., note=...)`: simulated steps and the last return, when known."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    start, seen = time.perf_counter(), 0
    with Progress(*columns, console=console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done, note="")

        def advance(count: int, *, steps: int = 0, value: float | None = None, note: str = "") -> None:
            nonlocal seen
            seen += steps
            notes = [f"{seen / (time.perf_counter() - start):.0f} steps/s"] if seen else []
            notes += [f"return {value:.0f}"] if value is not None else []
            notes += [note] if note else []
            progress.update(task, advance=count, note=", ".join(notes))

        yield advance
