"""Answers to MT-Bench's questions: written turn by turn by a model, or read from a file in its form."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.engines import Engine, EngineOptions, Sampling, open_engine, takes_model
from prefopt.models.find import has_chat_template, resolve_model
from prefopt.models.load import model_digest
from prefopt.stages.data.reading.readers import read_rows
from prefopt.stages.sample.passes import Pass, complete, encode_prompts
from prefopt.tables.context import Context
from prefopt.tables.records import Row, digest
from prefopt.tools.chat import BASE, run_models
from prefopt.tools.mt_bench.bench import Question, turns_of
from prefopt.tools.mt_bench.settings import MtBenchConfig
from prefopt.tools.win_rate.answers import split_place

TEMPERATURE = 0.7  # of categories that the settings do not name


@dataclass(frozen=True)
class Answers:
    """question id -> the answer to each turn. unanswered: turns that a model had no room for (empty answers); cut: at the limit of tokens."""

    name: str
    turns: Mapping[Hashable, tuple[str, ...]]
    unanswered: int = 0
    cut: int = 0


def read_or_write(
    place: str, questions: Sequence[Question], config: MtBenchConfig, context: Context
) -> Answers:
    """The answers at `place`: a file of answers (`choices[0].turns`), or those that a run's arm or a model now writes.

    Raises:
        PrefoptError: no such file, run or model, a question that a file does not answer, or a model without chat template.
    """
    path, arm = split_place(place)
    if path.is_file() and path.suffix in (".json", ".jsonl", ".gz"):
        return _from_file(path, arm, questions)
    if config.engine == "server" and config.engine_server is not None:
        name, model = config.engine_server.model, None
        if place != name:
            raise PrefoptError(
                f"mt-bench: {place}: no file of answers; the server's model is called {name}, name that"
            )
    elif (path / "summary.json").is_file():
        name, model = f"{path}:{arm}" if arm else str(path), _of_run(path, arm)
    else:
        name, model = place, resolve_model(place)
    if model is not None and not has_chat_template(model):
        raise PrefoptError(f"{place}: has no chat template, and two turns need one; take a chat model")
    engine = open_engine(config.engine, model, config.dtype, EngineOptions(config.engine_server))
    about = digest(
        model_digest(model) if model is not None and takes_model(config.engine) else name, engine.name
    )
    return _write(name, engine, about, questions, config, context)


def _of_run(folder: Path, arm: str | None) -> Path:
    return (
        run_models(folder)[BASE]
        if arm == BASE
        else next(p for n, p in run_models(folder, arm).items() if n != BASE)
    )


def _from_file(path: Path, name: str | None, questions: Sequence[Question]) -> Answers:
    found: dict[str, dict[Hashable, tuple[str, ...]]] = {}
    for row, where in read_rows(str(path)):
        found.setdefault(str(row.get("model_id") or path.name), {})[row.get("question_id")] = turns_of(
            row, where
        )
    if name is None and len(found) > 1:
        raise PrefoptError(
            f"{path}: holds answers of {', '.join(sorted(found))}; name one: {path}:{min(found)}"
        )
    own = name or next(iter(found))
    if own not in found:
        raise PrefoptError(f"{path}: no answers of {own!r}; it has {', '.join(sorted(found))}")
    for question in questions:
        if len(found[own].get(question.id, ())) < len(question.turns):
            raise PrefoptError(
                f"{path}: {own} has no answer to every turn of question {question.id}; complete the file"
            )
    return Answers(own, {q.id: found[own][q.id][: len(q.turns)] for q in questions})


def _write(
    name: str,
    engine: Engine,
    about: str,
    questions: Sequence[Question],
    config: MtBenchConfig,
    context: Context,
) -> Answers:
    said: dict[Hashable, list[str]] = {question.id: [] for question in questions}
    names = {str(question.id): question.id for question in questions}
    unanswered = cut = 0
    for turn in range(max(len(question.turns) for question in questions)):
        groups: dict[float, list[Row]] = {}  # by temperature
        for question in questions:
            if turn < len(question.turns):
                row: Row = {"id": str(question.id), "prompt": _dialogue(question, said[question.id])}
                groups.setdefault(config.temperatures.get(question.category, TEMPERATURE), []).append(row)
        for temperature, rows in sorted(groups.items()):
            asked, encoded = encode_prompts(rows, engine, context, {})
            sampling = Sampling(temperature, max_new_tokens=config.max_new_tokens)
            # parts are kept under a name of all that they depend on
            label = f"turn {turn + 1} at {temperature:g} {digest(about, asked, config.max_new_tokens, config.batch_size, context.seed)[:16]}"
            job = Pass(label, context.seed, config.batch_size, context.folder)
            done = complete(asked, encoded, engine, sampling, job)
            answers = {row["id"]: row["completion"] for row in done}
            cut += sum(row["finish_reason"] == "length" for row in done)
            for row in rows:
                said[names[str(row["id"])]].append(answers.get(row["id"], ""))
            unanswered += len(rows) - len(answers)
    return Answers(name, {key: tuple(turns) for key, turns in said.items()}, unanswered, cut)


def _dialogue(question: Question, answers: Sequence[str]) -> list[dict[str, str]]:
    found = []
    for turn, text in enumerate(question.turns[: len(answers) + 1]):
        found.append({"role": "user", "content": text})
        if turn < len(answers):
            found.append({"role": "assistant", "content": answers[turn]})
    return found


def as_rows(answers: Sequence[Answers]) -> Iterator[dict[str, Any]]:
    """The answers in MT-Bench's form."""
    for one in answers:
        for question, turns in one.turns.items():
            yield {
                "question_id": question,
                "model_id": one.name,
                "choices": [{"index": 0, "turns": list(turns)}],
            }
