"""Completions row by row: each row under its own seed, stored when its answer comes, asked again only if there was none."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

from prefopt.engines import Completion, FinishReason, Refusal, RowEngine, Sampling
from prefopt.engines.replies import MOST_TOKENS, AllRejected
from prefopt.tables.folder import StageFolder
from prefopt.tables.journal import Journal
from prefopt.tables.progress import progress
from prefopt.tables.records import Row


def answer_rows(
    rows: Sequence[Row],
    prompts: Sequence[Any],
    engine: RowEngine,
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    label: str,
    folder: StageFolder | None,
) -> list[Completion | Refusal]:
    """One answer or refusal per row, in order. The journal names a row by its place and its id.

    A killed process loses the calls in flight. The next one asks them, those that the server gave up on, those
    whose line in the journal cannot be used, which it counts on stderr, and all where every one was refused.
    """
    found: dict[int, Completion | Refusal] = {}
    with Journal(_path(folder, label) if folder else None) as journal:
        for record in journal.read():
            index = _row_of(record, rows)
            answer = None if index is None else _read(record)
            if index is None or answer is None:
                journal.set_aside += 1
            else:
                found[index] = answer
        journal.tell("asked again")
        if not any(isinstance(answer, Completion) for answer in found.values()):
            found.clear()  # refusals alone are as likely the server's or the settings' doing, which may be mended since
        todo = [index for index in range(len(rows)) if index not in found]
        with progress(label, len(rows)) as advance:
            advance(len(found))

            def keep(place: int, answer: Completion | Refusal) -> None:
                index = todo[place]
                found[index] = answer
                if isinstance(answer, Refusal) and answer.said:
                    print(
                        f"{label}: row {rows[index]['id']}: {answer.reason}: {answer.said}", file=sys.stderr
                    )
                if not (isinstance(answer, Refusal) and answer.again):
                    journal.add({"row": index, "id": rows[index]["id"], **_written(answer)})
                advance(1)

            asked, own = [prompts[i] for i in todo], [seeds[i] for i in todo]
            try:
                _ask(engine, asked, sampling, own, keep, folder, label)
            except AllRejected as error:
                # the settings are right where they have brought answers before: then it is these rows
                if not any(isinstance(answer, Completion) for answer in found.values()):
                    raise
                for place, reply in error.replies.items():
                    keep(place, Refusal(reply.error, said=reply.said))
    return [found[index] for index in range(len(rows))]


def _ask(
    engine: RowEngine,
    prompts: Sequence[Any],
    sampling: Sampling,
    seeds: Sequence[int],
    keep: Callable[[int, Completion | Refusal], None],
    folder: StageFolder | None,
    label: str,
) -> None:
    with folder.timed(f"{label} {len(prompts)}") if folder else nullcontext():
        engine.generate_each(prompts, sampling, seeds, keep)


def _path(folder: StageFolder, label: str) -> Path:
    return folder.work_part(label, 0).with_name("answers.jsonl")


def _written(answer: Completion | Refusal) -> dict[str, Any]:
    if isinstance(answer, Refusal):
        return {"refused": answer.reason}
    return {
        "text": answer.text,
        "ids": answer.token_ids,
        "end": answer.finish_reason,
        "tokens": answer.counted,
        "logp": answer.logp,
    }


def _row_of(record: Row, rows: Sequence[Row]) -> int | None:
    """The place of the row that a line of the journal is about; None where there is no such row."""
    index = record.get("row")
    if (
        not isinstance(index, int)
        or not _is_count(index)
        or index >= len(rows)
        or record.get("id") != rows[index]["id"]
    ):
        return None
    return index


def _read(record: Row) -> Completion | Refusal | None:
    """The answer in a line of the journal; None where it cannot be one."""
    if "refused" in record:
        return Refusal(record["refused"]) if isinstance(record["refused"], str) else None
    text, ids, end = record.get("text"), record.get("ids"), record.get("end")
    tokens, logp = record.get("tokens"), record.get("logp")
    sound = (
        isinstance(text, str)
        and (ids is None or (isinstance(ids, list) and all(map(_is_count, ids))))
        and end in get_args(FinishReason)
        and (tokens is None or _is_count(tokens))
        and (logp is None or (isinstance(logp, int | float) and math.isfinite(logp)))
    )
    return Completion(text, ids and tuple(ids), end, tokens, logp) if sound else None  # type: ignore[arg-type]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
