"""A plan for reading: a line per stage, what training does, and how the estimates come about."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefopt.pipeline.costs import HOW, SCORE, TRAIN, ModelSize, Speed, learning_rates, training_bytes
from prefopt.pipeline.expected import CHARS_PER_TOKEN, steps_of
from prefopt.pipeline.plan import Plan, Step

UNITS = ("B", "kB", "MB", "GB", "TB")


def plan_text(plan: Plan, name: str, output: Path) -> str:
    """All of the plan, wrapped at 80 columns where it is prose."""
    lines = [f"plan of {name} in {output}: nothing was computed or written", ""]
    for step in plan.steps:
        lines += _step(step, plan, output)
    lines.append("")
    if plan.model is not None:
        size = plan.model
        lines.append(f"model: {size.parameters:,} parameters, {size.dtype}, {_bytes(size.bytes)}")
    if plan.note:
        lines.append(plan.note)
    total = [seconds for step in plan.steps if (seconds := seconds_of(step, plan.speed)) is not None]
    if total:
        lines.append(f"time of the stages that have one: {_bound(plan.steps)} {_time(sum(total))}")
    lines += ["", *textwrap.wrap(_how(plan), 80)]
    return "\n".join(lines)


def _how(plan: Plan) -> str:
    probe = plan.speed.about if plan.speed is not None else "none, because no model was tried"
    return (
        'How it is reckoned: rows by settings alone, so that "at most" counts what later stages may drop. Tokens: characters / '
        f"{CHARS_PER_TOKEN:g} of the first rows, or the longest answer of a model that has yet to write. {HOW.format(probe=probe)}."
    )


def _step(step: Step, plan: Plan, output: Path) -> Iterator[str]:
    place = step.folder.relative_to(output).as_posix()
    way = step.way + (" (anew)" if step.anew else "")
    said = [_rows(step)]
    seconds = seconds_of(step, plan.speed)
    if seconds is not None:
        said.append(f"{_bound([step])} {_time(seconds)}")
    yield f"  {place:<24} {way:<15} {', '.join(said)}"
    if step.stage == "train" and step.way != "reused":
        yield from _training(step, plan.model)


def _bound(steps: Sequence[Step]) -> str:
    """What stands before a time: with rows or lengths that may be fewer, it is the longest."""
    return "up to" if any(step.rows.most for step in steps) else "about"


def _rows(step: Step) -> str:
    rows, most = step.rows, "at most " if step.rows.most else ""
    if step.stage == "train":
        return f"{steps_of(step.config, rows.train):,} steps of {step.config.pairs_per_step} on {most}{rows.train:,} rows"
    held = f" ({rows.held_out:,} held out)" if rows.held_out and step.stage != "evaluate" else ""
    calls = f", {most}{rows.calls:,} calls" if rows.calls else ""
    return f"{most}{rows.rows:,} rows{held}{calls}"


def _training(step: Step, size: ModelSize | None) -> Iterator[str]:
    steps = steps_of(step.config, step.rows.train)
    rates = " ".join(f"{rate:.1e}" for rate in learning_rates(step.config, steps))
    yield from textwrap.wrap(
        f"learning rate at each tenth: {rates}", 80, initial_indent=" " * 6, subsequent_indent=" " * 8
    )
    if size is not None:
        parts = training_bytes(size, step.config)
        shares = ", ".join(f"{name} {_bytes(count)}" for name, count in parts.items())
        yield from textwrap.wrap(
            f"memory: {_bytes(sum(parts.values()))} and activations ({shares})", 80, initial_indent=" " * 6,
            subsequent_indent=" " * 8,
        )  # fmt: skip


def seconds_of(step: Step, speed: Speed | None) -> float | None:
    """Seconds that a stage may take; None where it is done, asks a server or does no work of a model."""
    rows = step.rows
    if speed is None or step.way == "reused" or rows.calls:
        return None
    if step.stage == "sample":
        return _writing(rows.rows, rows.answer_tokens, step.config.batch_size, speed)
    if step.stage == "reference":
        return rows.rows * rows.row_tokens * speed.token_s * SCORE
    if step.stage == "train":
        pairs = steps_of(step.config, rows.train) * step.config.pairs_per_step
        return pairs * rows.row_tokens * speed.token_s * TRAIN
    if step.stage == "evaluate":
        written = _writing(rows.prompts * rows.answers, rows.answer_tokens, step.config.batch_size, speed)
        return written + rows.held_out * rows.row_tokens * speed.token_s * SCORE
    return None


def _writing(answers: int, tokens: float, batch: int, speed: Speed) -> float:
    """Answers in batches, each until its longest possible end; without a measured step, token by token."""
    if speed.step_s is None:
        return answers * tokens * speed.token_s
    return math.ceil(answers / batch) * tokens * speed.step_s * max(1.0, batch / speed.batch)


def _time(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    power = min(len(UNITS) - 1, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {UNITS[power]}"
