"""Passes over rows: each row with its completion, batch by batch or, of a server, row by row; stored as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.engines import Completion, Engine, RowEngine, Sampling, batch_seed
from prefopt.engines.client import NO_ROOM
from prefopt.engines.rows import answer_rows
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, map_parts
from prefopt.tables.records import Row

Drop = Callable[[str, str], None]  # reason, where


@dataclass(frozen=True)
class Pass:
    """One pass over rows: its label (unique within the stage), the stage's seed, batch size in rows, and folder."""

    label: str
    seed: int
    batch_size: int
    folder: StageFolder | None


def encode_prompts(
    rows: Sequence[Row], engine: Engine, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], list[Any]]:
    """The rows that can be asked, and their prompts as the engine wants them; the others are counted in `dropped`.

    Raises:
        PrefoptError: the chat template refuses every row, with its reason; it is broken or does not end.
    """
    from prefopt.models.template import REFUSED, TemplateRefused

    kept, encoded = [], []
    first_refused: TemplateRefused | None = None
    count_refused = 0
    for row in rows:
        where = f"sample: row {row['id']!r}"
        try:
            ids = engine.encode(row)
        except TemplateRefused as refused:
            first_refused, count_refused = first_refused or refused, count_refused + 1
            context.drop(dropped, REFUSED, f"{where} ({refused})")
            continue
        if engine.max_tokens is not None and len(ids) >= engine.max_tokens:
            context.drop(dropped, NO_ROOM, where)
            continue
        kept.append(row)
        encoded.append(ids)
    if first_refused is not None and count_refused == len(rows):
        raise PrefoptError(f"sample: no prompt left: {first_refused}")
    return kept, encoded


def complete(
    rows: Sequence[Row],
    encoded: Sequence[Any],
    engine: Engine,
    sampling: Sampling,
    job: Pass,
    drop: Drop | None = None,
) -> list[Row]:
    """Each row with one completion: `completion`, `model`, `finish_reason`, `completion_tokens`, `seed`.

    Batches are cut by row index; batch b is sampled under `batch_seed(job.seed, job.label, b)` and stored when done.
    A `RowEngine` has `batch_seed(job.seed, job.label, row index)` for each row, and its answers are stored one by one;
    rows without an answer go to `drop`.

    Raises:
        PrefoptError: a row has no answer and there is no `drop`.
    """
    if isinstance(engine, RowEngine):
        return _complete_each(rows, encoded, engine, sampling, job, drop)

    def write(chunk: Sequence[Row], start: int) -> list[Row]:
        seed = batch_seed(job.seed, job.label, start // job.batch_size)
        answers = engine.generate(encoded[start : start + len(chunk)], sampling, seed)
        return [
            _completed(row, answer, engine.name, seed, sampling)
            for row, answer in zip(chunk, answers, strict=True)
        ]

    return map_parts(rows, write, folder=job.folder, part_rows=job.batch_size, label=job.label)


def _complete_each(
    rows: Sequence[Row],
    encoded: Sequence[Any],
    engine: RowEngine,
    sampling: Sampling,
    job: Pass,
    drop: Drop | None,
) -> list[Row]:
    seeds = [batch_seed(job.seed, job.label, index) for index in range(len(rows))]
    answers = answer_rows(rows, encoded, engine, sampling, seeds, label=job.label, folder=job.folder)
    done = []
    for row, answer, seed in zip(rows, answers, seeds, strict=True):
        where = f"{job.label}: row {row['id']!r}"
        if isinstance(answer, Completion):
            done.append(_completed(row, answer, engine.name, seed, sampling))
        elif drop is None:
            raise PrefoptError(f"{where}: {answer.reason}; start again, answers that came are kept")
        else:
            drop(answer.reason, where)
    return done


def _completed(row: Row, answer: Completion, model: str, seed: int, sampling: Sampling) -> Row:
    more = {"sampled_logps": answer.logp} if sampling.logprobs else {}
    return {
        **row,
        "completion": answer.text,
        "model": model,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.tokens,
        "seed": seed,
        **more,
    }


def shown_reasons(dropped: Mapping[str, int]) -> str:
    """Counts of dropped rows as one text."""
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(dropped.items())) or "the input is empty"
