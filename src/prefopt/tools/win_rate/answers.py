"""Answers to be compared, from wherever they lie: an arm of a run, the folder of a stage, or any file of outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.terminal import one_line
from prefopt.report.load import load_run
from prefopt.rules.content import text_of
from prefopt.stages.data.reading.readers import read_rows
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, is_ours, rows_of
from prefopt.tables.table_rows import read_table

PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("completion", "output", "response", "answer")
NAMES = ("generator", "model", "model_id")
FOLDER_COLUMNS = ("kind", "mode", "prompt", "completion", "completion_index", "model", "gold", "gold_completion",
                  "is_correct", "score", "answer")  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Answers of one model: prompt key (`key_of`) -> its rows with `prompt` and `completion`, in the order of the source."""

    name: str
    rows: Mapping[str, Sequence[Row]]


def key_of(prompt: Any) -> str:
    """What a prompt is known by: its words, whatever form they have."""
    return text_of(prompt).strip()


def split_place(place: str) -> tuple[Path, str | None]:
    """`PATH` or `PATH:NAME`; a path that exists is never split."""
    path = Path(place)
    if path.exists() or ":" not in place:
        return path, None
    before, _, name = place.rpartition(":")
    return Path(before), name


def files_of(places: Iterable[str]) -> list[Path]:
    """The file or folder of each `PATH` or `PATH:NAME`."""
    return [split_place(place)[0] for place in places]


def read_outputs(place: str, mode: str | None = None) -> Outputs:
    """The answers at `place`: a run (`RUN`, `RUN:ARM`), a folder of stage 01 or 08, or a file (`FILE`, `FILE:MODEL`).

    mode: greedy or sampled answers of an evaluated model; None: greedy where there are any.

    Raises:
        PrefoptError: nothing there, no answers, several models and none named, or no such arm or model.
    """
    path, name = split_place(place)
    if (path / "summary.json").exists():
        run = load_run(path)
        arm = name or run.main
        if arm not in run.summary["folders"]:
            raise PrefoptError(f"{path}: no arm {arm!r}, {nearest(arm, run.summary['folders'])}")
        rows = _of_mode(run.rows(arm, "evaluate", FOLDER_COLUMNS), mode, place)
        return _outputs(f"{path}:{arm}", rows, place)
    if (path / "manifest.json").exists():
        if name is not None:
            raise PrefoptError(f"{path}: is the folder of a stage, it has no {name!r}; give the folder alone")
        rows = _of_mode(rows_of(StageFolder(path).table()), mode, place)
        return _outputs(str(path), rows, place)
    if path.suffix == ".parquet" and path.is_file() and is_ours(path):
        found = [_output_row(row, f"{path}") for row in _of_mode(rows_of(read_table(path)), mode, place)]
    else:
        found = [row for raw, where in read_rows(str(path)) for row in _file_rows(raw, where)]
    kept = _of_model(found, name, place)
    return _outputs(name or next((row["model"] for row in kept if row["model"]), place), kept, place)


def _of_mode(rows: Sequence[Row], mode: str | None, place: str) -> list[Row]:
    answers = [
        row for row in rows if row.get("completion") is not None and row.get("kind") in (None, "sample")
    ]
    modes = {str(row["mode"]) for row in answers if row.get("mode") is not None}
    wanted = mode or ("greedy" if "greedy" in modes else "sampled")
    if modes and wanted not in modes:
        raise PrefoptError(f"{place}: has no {mode} answers, only {', '.join(sorted(modes))}; set --mode")
    return [row for row in answers if not modes or row["mode"] == wanted]


def _file_rows(raw: Row, where: str) -> Iterator[Row]:
    """One row per answer of a row of a file: an output, or a prompt with the answers of several models."""
    listed = raw.get("completions")
    if not isinstance(listed, list):
        yield _output_row(raw, where)
        return
    shared = {key: value for key, value in raw.items() if key != "completions"}
    for entry in listed:
        if not isinstance(entry, Mapping):
            raise PrefoptError(f"{where}: completions must be objects with model and text")
        yield _output_row({**shared, "completion": entry.get("text"), **entry}, where)


def _output_row(raw: Row, where: str) -> Row:
    found = {}
    for kind, names in (("prompt", PROMPTS), ("completion", ANSWERS)):
        name = next((name for name in names if isinstance(raw.get(name), str | list)), None)
        if name is None:
            raise PrefoptError(
                f"{where}: no {kind} (a text under {', '.join(names)}); give a file of outputs"
            )
        found[kind] = raw[name]
    model = next((str(raw[name]) for name in NAMES if raw.get(name) is not None), None)
    return {**raw, **found, "completion": text_of(found["completion"]), "model": model}


def _of_model(rows: Sequence[Row], name: str | None, place: str) -> list[Row]:
    models = sorted({str(row["model"]) for row in rows if row["model"] is not None})
    if name is None and len(models) > 1:
        raise PrefoptError(
            f"{place}: holds answers of {len(models)} models; name one: {one_line(f'{place}:{models[0]}')} (has "
            f"{one_line(', '.join(models))})"
        )
    if name is not None and name not in models:
        raise PrefoptError(f"{place}: no answers of model {name!r}, {nearest(name, models)}")
    return [row for row in rows if name is None or row["model"] == name]


def _outputs(name: str, rows: Iterable[Row], place: str) -> Outputs:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key_of(row["prompt"]), []).append(row)
    if not found:
        raise PrefoptError(
            f"{place}: no answers to test prompts; evaluate the model on prompts (prefopt evaluate --input PROMPTS --output DIR)"
        )
    return Outputs(name, found)


# ---- what is recorded


def has_annotations(place: str) -> bool:
    """Whether the file holds verdicts on two outputs (AlpacaEval's annotations) rather than outputs."""
    return begins_with(place, {"preference", "output_1", "output_2"})


def begins_with(place: str, columns: Set[str]) -> bool:
    """Whether `place` is a data file, no table of ours, whose first row has these columns."""
    path = Path(place)
    if not path.is_file() or path.suffix == ".parquet":
        return False
    first = next(iter(read_rows(str(path), limit=1)), None)
    return first is not None and columns <= set(first[0])


def read_difficulty(path: Path) -> dict[str, float]:
    """Prompt key -> its difficulty, from a file with a column `prompt` or `instruction`, and `difficulty`.

    Raises:
        PrefoptError: a row without them, a value that is no finite number, or two values of one prompt.
    """
    found: dict[str, float] = {}
    for row, where in read_rows(str(path)):
        prompt = next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None)
        value = row.get("difficulty", row.get("instruction_difficulty"))
        number = _number(value)
        if prompt is None or number is None:
            raise PrefoptError(
                f"{where}: needs prompt (or instruction) and a number as difficulty, has {json.dumps(row)[:80]}"
            )
        if found.setdefault(key_of(prompt), number) != number:
            raise PrefoptError(f"{where}: the prompt has another difficulty further up; keep one")
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
