"""Forms of completions: a prompt with several answers, perhaps with scores, ranks, models or marks of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.forms.ask import (
    TEXTS,
    first_of,
    numeric,
    same_length,
    take_gold,
    take_prompt,
)
from prefopt.tables.records import Row

SCORES = ("score", "overall_score", "rating", "reward", "rm_score")
# lists of answers, and what may stand beside them, item by item
LISTS = (
    *(
        "completions",
        "responses",
        "generations",
        "candidates",
        "all_generated_responses",
        "samples",
        "answers",
    ),
    *("outputs", "replies", "raw_generation_responses"),
)
SCORE_LISTS = ("scores", "ratings", "rewards", "all_rm_scores", "rm_scores", "rating", "score", "points")
RANK_LISTS = ("ranks", "ranking", "rankings", "rank")
MODEL_LISTS = ("models", "generation_models", "model_names", "generators", "generations_models", "model")
MARK_LISTS = ("is_correct", "correctness", "correct", "labels", "correctness_math_verify", "passed")
# of these names alone nothing says that the texts are a model's answers: the gold answers of a question look alike
GOLD_LIKE = ("answers", "outputs")


def list_name(row: Mapping[str, Any]) -> str | None:
    """The column with a list of answers."""
    for name in LISTS:
        values = row.get(name)
        if not isinstance(values, list) or not values:
            continue
        if name not in GOLD_LIKE or _is_scored(row, values):
            return name
    return None


def _is_scored(row: Mapping[str, Any], values: list[Any]) -> bool:
    if all(isinstance(value, dict) for value in values):
        known = {*SCORES, "rank", "model", "is_correct"}
        return all(known & set(value) and set(TEXTS) & set(value) for value in values)
    beside = (*SCORE_LISTS, *RANK_LISTS, *MODEL_LISTS)
    return any(isinstance(row.get(n), list) and len(row[n]) == len(values) for n in beside)


def ranked(row: Row) -> Row:
    """A prompt and a list of answers: texts, or objects with text, model, is_correct, score or rank; or lists side by side."""
    row = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    name = list_name(row) or first_of(row, LISTS) or "completions"
    values = row.pop(name, None)
    if not isinstance(values, list):
        raise BadRow("completions is not a list")
    if not values:
        raise BadRow("no completions")
    prompt = take_prompt(row)
    take_gold(row)
    entries = [_completion(value) for value in values]
    _take_lists(row, entries)
    return {**row, "prompt": prompt, "completions": entries}


def _take_lists(row: Row, entries: list[Row]) -> None:
    """What stands item by item beside the answers goes to them."""
    for names, own in (
        (SCORE_LISTS, "score"),
        (RANK_LISTS, "rank"),
        (MODEL_LISTS, "model"),
        (MARK_LISTS, "is_correct"),
    ):
        name = next((n for n in names if isinstance(row.get(n), list)), None)
        if name is None or any(own in entry for entry in entries):
            continue
        values = same_length(row, name, entries, f"values of {name}")
        for entry, value in zip(entries, values or [], strict=True):
            if own == "score":
                value = numeric(value) if value is not None else None
            if own == "rank" and numeric(value) is not None and "score" not in entry:
                entry["score"] = -numeric(value)  # type: ignore[operator]
            if value is not None:
                entry[own] = value


def _completion(value: Any) -> Row:
    """One completion under our names; a text that is none is kept for the checks to count."""
    if not isinstance(value, dict):
        return {"completion": _one_text(value)}
    entry = dict(value)
    if "role" in entry and "content" in entry:  # a message
        entry.pop("role")
    name = next((n for n in TEXTS if n in entry), None)
    said = entry.pop(name) if name else None
    name = next((n for n in SCORES if numeric(entry.get(n)) is not None), None)
    if name is not None:
        entry["score"] = numeric(entry.pop(name))
    elif numeric(entry.get("rank")) is not None:
        entry["score"] = -numeric(entry["rank"])  # type: ignore[operator]  # the lowest rank is the best
    return {**entry, "completion": _one_text(said)}


def _one_text(said: Any) -> Any:
    """The text of a list with one message."""
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
        return said[0].get("content", said[0].get("value"))
    return said


def tournament(row: Row) -> Row:
    """A prompt and `completions`: texts, or objects with text, model, is_correct, score or rank."""
    return ranked(row)


def nectar(row: Row) -> Row:
    """Nectar: seven answers with ranks from 1, the best."""
    return ranked(row)


def nemo(row: Row) -> Row:
    """NeMo RL: `context` is the conversation, each completion a list of messages with a rank from 0, the best."""
    return ranked(row)


def distilabel(row: Row) -> Row:
    """distilabel: `generations` beside `ratings` and `generation_models`."""
    return ranked(row)


def solutions(row: Row) -> Row:
    """GSM8K example solutions: one column per model, each {is_correct, solution}; ground_truth is a text."""
    names = [name for name, value in row.items() if isinstance(value, dict) and "solution" in value]
    truth = row.get("ground_truth")
    entries = [{"model": "ground_truth", "text": truth, "is_correct": True}] if isinstance(truth, str) else []
    entries += [{"model": name, **row[name]} for name in names]
    rest = {k: v for k, v in row.items() if k not in names and k != "ground_truth"}
    if isinstance(truth, str) and "\nA:" in truth and rest.get("answer") is None:
        rest["answer"] = truth.rsplit("\nA:", 1)[1]
    return ranked({**rest, "completions": entries})
