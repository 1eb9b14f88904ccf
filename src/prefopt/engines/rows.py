"""Completions row by row: each row under its own seed, stored when its answer comes, asked again only if there was none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefopt.engines import Completion, Refusal, RowEngine, Sampling
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

    A killed process loses the calls in flight. The next one asks them, and those that the server gave up on.
    """
    found: dict[int, Completion | Refusal] = {}
    with Journal(_path(folder, label) if folder else None) as journal:
        for record in journal.read():
            index = record.get("row")
            if isinstance(index, int) and index < len(rows) and record.get("id") == rows[index]["id"]:
                found[index] = _read(record)
        todo = [index for index in range(len(rows)) if index not in found]
        with progress(label, len(rows)) as advance:
            advance(len(found))

            def keep(place: int, answer: Completion | Refusal) -> None:
                index = todo[place]
                found[index] = answer
                if not (isinstance(answer, Refusal) and answer.again):
                    journal.add({"row": index, "id": rows[index]["id"], **_written(answer)})
                advance(1)

            asked, own = [prompts[i] for i in todo], [seeds[i] for i in todo]
            _ask(engine, asked, sampling, own, keep, folder, label)
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


def _read(record: Row) -> Completion | Refusal:
    if "refused" in record:
        return Refusal(record["refused"])
    ids = record["ids"]
    return Completion(record["text"], ids and tuple(ids), record["end"], record["tokens"], record.get("logp"))
