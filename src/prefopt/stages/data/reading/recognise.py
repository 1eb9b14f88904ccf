"""Which form a file is of, and what is said where none fits, or where it would be read as less than it is."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.added import fitting, names_read
from prefopt.stages.data.reading.dialogue import ANSWER_MARKERS, shared_start
from prefopt.stages.data.reading.formats import Format, Sample
from prefopt.stages.data.reading.forms.ask import (
    CONVERSATIONS,
    OTHER_PROMPTS,
    PROMPTS,
    SOLUTIONS,
    SYSTEMS,
    numeric,
    prompt_name,
)
from prefopt.stages.data.reading.forms.compared import VERDICTS
from prefopt.stages.data.reading.forms.pairs import BETTER_WORSE, sides_of, words
from prefopt.stages.data.reading.forms.ranked import LISTS, MARK_LISTS, MODEL_LISTS, RANK_LISTS, SCORE_LISTS
from prefopt.stages.data.reading.forms.single import (
    ANSWERS,
    LABELS,
    MARKS,
    SINGLE_SCORES,
    is_truth,
    label_name,
)
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import Row

WANTED = {
    "pairs": ("chosen", "rejected"),
    "completions": ("prompt", "completions"),
    "prompts": ("prompt",),
    "unpaired": ("prompt", "completion", "label"),
    "auto": ("prompt", "chosen", "rejected"),
}
# what a prompt may bring along: gold answers and solutions, and names with words of answers that are about the prompt
_GOLD = frozenset({
    "gold", "gold_completion", "answer", "solution", "final_answer", "ground_truth", "reference", "reference_answer",
    "target", "expected_answer", "reward_model", "answers", "choices", "completion", "response", "output",
})  # fmt: skip
_ABOUT_PROMPT = frozenset({
    "difficulty", "prompt", "question", "instruction", "input", "problem", "language", "edu", "similarity", "format",
    "max", "min", "number", "schema", "expected", "rate", "kwargs", "instruct", "tokens", "length",
})  # fmt: skip
_ANSWER_WORDS = frozenset({
    "chosen", "rejected", "response", "responses", "completion", "completions", "generation", "generations", "candidate",
    "candidates", "reply", "replies", "output", "outputs", "preferred", "dispreferred", "accepted", "winner", "loser",
    "better", "worse", "answer", "answers",
})  # fmt: skip
_LABEL_WORDS = frozenset({
    "label", "labels", "thumb", "thumbs", "feedback", "liked", "like", "vote", "votes", "preference", "preferences",
    "verdict", "upvoted", "upvote", "tag", "annotation", "annotations", "ranking", "desirable", "reaction",
})  # fmt: skip
_SCORE_WORDS = frozenset(
    {"score", "scores", "rating", "ratings", "reward", "rewards", "rank", "ranks", "stars", "helpfulness"}
)
# columns that hold no question
_META = frozenset({
    "id", "ids", "uuid", "source", "dataset", "model", "models", "category", "split", "type", "subset", "domain", "topic",
    "language", "lang", "url", "date", "time", "timestamp", "created", "author", "user", "hash", "version", "license",
    "tags", "tag", "name", "status", "metadata", "meta", "rationale", "reason", "critique", "explanation", "feedback",
    "order", "margin", "weight", "index", "tools", "generator", "policy", "task", "evol", "origin",
}) | _SCORE_WORDS | _LABEL_WORDS  # fmt: skip


def detect(sample: Sample, kind: str, where: str, head: Sequence[Row] = ()) -> Format:
    """The format of a file from its columns; `kind` auto takes the first that fits.

    sample: column -> its first value that is not null. head: the first rows, where the caller has them.

    Raises:
        PrefoptError: no format fits, or only that of prompts while some column looks like an answer, a label or a score.
    """
    found = fitting(sample, kind)
    if not found:
        raise no_format(sample, kind, where)
    form = found[0]
    if form.name == "implicit":
        _check_implicit(sample, head, where)
    if form.kind == "unpaired":
        _check_labels(sample, head, where)
    if kind == "auto" and form.kind == "prompts":
        for name in ("chosen", "rejected", "completions"):
            if misspelt(name, sample) or name in sample:
                raise no_format(sample, "completions" if name == "completions" else "pairs", where)
        _check_prompts(sample, where)
    return form


# ---- prompts that are more than prompts


def suspects(sample: Sample) -> dict[str, str]:
    """Columns beside the prompt that look like an answer, a label or a score -> which of them."""
    asked = {*PROMPTS, *CONVERSATIONS, *OTHER_PROMPTS, *SYSTEMS, "turns", prompt_name(sample)}
    found: dict[str, str] = {}
    for name, value in sample.items():
        parts = set(words(name))
        if name in asked or name in _GOLD or (name in COLUMNS and name != "label") or _ABOUT_PROMPT & parts:
            continue
        for kind, known in (("answer", _ANSWER_WORDS), ("label", _LABEL_WORDS), ("score", _SCORE_WORDS)):
            if known & {part.rstrip("0123456789") for part in parts} and _may_be(kind, value):
                found.setdefault(name, kind)
    golds = [name for name in ("completion", "response", "output") if name in sample]
    return found | (dict.fromkeys(golds, "answer") if len(golds) > 1 else {})


def _may_be(kind: str, value: Any) -> bool:
    if kind == "answer":
        return isinstance(value, str | list | dict) and bool(value)
    if kind == "score":
        return numeric(value) is not None or isinstance(value, list)
    return value != []


def _check_prompts(sample: Sample, where: str) -> None:
    found = suspects(sample)
    if not found:
        return
    looks = ", ".join(
        f"{name!r} looks like {'an' if kind == 'answer' else 'a'} {kind}"
        for name, kind in list(found.items())[:4]
    )
    name, kind = next(iter(found.items()))
    ours = {"answer": "chosen", "label": "label", "score": "score"}[kind]
    raise PrefoptError(
        f"{where}: more than prompts, but of no known form: column {looks}; say what they are with "
        f"data.columns: {{{name}: {ours}}} (docs/formats.md), or set data.kind: prompts to read the prompts alone"
    )


# ---- prompts that the answers carry


def _check_implicit(sample: Sample, head: Sequence[Row], where: str) -> None:
    """Chosen and rejected without a prompt: only texts that carry one do, and only where nothing else may be the question."""
    rows = [row for row in head or [dict(sample)] if row.get("chosen") and row.get("rejected")]
    texts = [row for row in rows if isinstance(row["chosen"], str) and isinstance(row["rejected"], str)]
    if sum(_carries_prompt(row["chosen"], row["rejected"]) for row in texts) * 2 > len(texts) or (
        rows and not texts and any(_carries_turns(row["chosen"]) for row in rows)
    ):
        return
    names = possible_questions(sample, head)
    if names:
        others = f" (or {', '.join(names[1:4])})" if len(names) > 1 else ""
        raise PrefoptError(
            f"{where}: chosen and rejected hold no prompt, and no column is known to; name the question with "
            f"data.columns: {{{names[0]}: prompt}}{others}"
        )
    if texts:
        raise PrefoptError(
            f"{where}: no column holds the prompt, and what chosen and rejected begin with alike is none (no transcript, no "
            "template around it); put the question into a column prompt, or name it with data.columns: {YOUR_QUESTION: prompt}"
        )


def _carries_prompt(chosen: str, rejected: str) -> bool:
    start = shared_start(chosen, rejected)
    return chosen == rejected or any(marker in start for marker in ANSWER_MARKERS)


def _carries_turns(side: Any) -> bool:
    if not isinstance(side, list):
        return False
    speakers = {m.get("role", m.get("from")) for m in side if isinstance(m, dict)}
    return bool(speakers & {"user", "human"})


def possible_questions(sample: Sample, head: Sequence[Row]) -> list[str]:
    """Columns that may ask the question, the likeliest first: texts of several words or messages, not alike in all rows."""
    found = []
    taken = set(sides_of(sample) or ()) | {"chosen", "rejected"}
    for name, value in sample.items():
        if name in taken or not isinstance(value, str | list | dict) or _META & set(words(name)):
            continue
        values = [str(row[name]) for row in head if row.get(name) is not None] or [str(value)]
        varied = len(set(values)) > 1 or len(values) == 1
        wordy = max(len(text.split()) for text in values)
        if varied and (wordy > 1 or len(set(values)) * 2 > len(values)):
            found.append((not wordy > 1, name))
    return [name for _, name in sorted(found, key=lambda item: item[0])]


# ---- labels


def _check_labels(sample: Sample, head: Sequence[Row], where: str) -> None:
    """A column of numbers beyond true and false is a score, and one without a single true or false no label."""
    name = label_name(sample)
    values = [row[name] for row in head if row.get(name) not in (None, "")] if name else []
    others = [value for value in values if not is_truth(value)]
    if not others:
        return
    said = ", ".join(dict.fromkeys(f"{value!r:.30}" for value in others[:3]))
    if any(numeric(value) is not None for value in others):
        raise PrefoptError(
            f"{where}: column {name!r} holds {said}: numbers, not true or false; if they are scores, say so with "
            f"data.columns: {{{name}: score}}"
        )
    if len(others) == len(values):
        raise PrefoptError(
            f"{where}: column {name!r} holds {said}, which is neither true nor false (also 1, 0, good, bad, thumbs up ...); "
            "mend the labels, or set data.kind: prompts to read the prompts alone"
        )


# ---- nothing fits


def misspelt(name: str, sample: Iterable[str]) -> str | None:
    """A column that is named nearly so, and not known for something else."""
    names = list(sample)
    if name in names:
        return None
    lowered = {found.lower(): found for found in names if found not in known_names() and found not in COLUMNS}
    close = difflib.get_close_matches(name, lowered, n=1, cutoff=0.75)
    return lowered[close[0]] if close else None


def no_format(sample: Mapping[str, Any], kind: str, where: str) -> PrefoptError:
    """The error for a file of which nothing, or not what was asked for, can be read."""
    wanted = WANTED[kind]
    missing = [name for name in wanted if name not in sample] or list(wanted)
    if kind == "pairs" and sides_of(sample) is not None:
        missing = ["prompt"]
    near = next(((name, found) for name in missing if (found := misspelt(name, sample))), None)
    name, found = near or (missing[0], f"YOUR_{missing[0].upper()}")
    questions = possible_questions(sample, ()) if name == "prompt" and not near else []
    hint = f"name it with data.columns: {{{questions[0] if questions else found}: {name}}}"
    found_names = ", ".join(n if n.isprintable() else repr(n) for n in sorted(sample)[:12]) or "none"
    lacking = "no known format" if kind == "auto" else f"no {kind}"
    other = next(iter(fitting(sample)), None) if kind not in ("auto", "prompts") else None
    if other is not None and other.kind != "prompts":
        hint = f"it holds {other.kind} (form {other.name}): set data.kind: {other.kind}, or {hint}"
    elif other is not None and (odd := suspects(sample)):
        hint = f"{hint}; {', '.join(map(repr, list(odd)[:4]))} may be what is missing"
    return PrefoptError(f"{where}: {lacking}, column {name!r} is missing (found: {found_names}); {hint}")


def known_names() -> frozenset[str]:
    """Every column name that some format reads, for `data.columns`."""
    return _our_names() | names_read()


@functools.cache
def _our_names() -> frozenset[str]:
    more = (
        "answer",
        "text",
        "chosen",
        "rejected",
        "completions",
        "ground_truth",
        "turns",
        "history",
        "input",
    )
    pairs = ("output_1", "output_2", "preference", "response1", "response2", "rank_chosen", "rank_rejected")
    sides = [f"{better}_response" for better, _ in BETTER_WORSE[:2]] + [
        "response_a",
        "response_b",
        "rejected_response",
    ]
    lists = (*LISTS, *SCORE_LISTS, *RANK_LISTS, *MODEL_LISTS, *MARK_LISTS)
    singles = (*ANSWERS, *LABELS, *SINGLE_SCORES, *MARKS, *VERDICTS)
    return frozenset(
        (
            *PROMPTS,
            *CONVERSATIONS,
            *OTHER_PROMPTS,
            *SYSTEMS,
            *SOLUTIONS,
            *lists,
            *singles,
            *more,
            *pairs,
            *sides,
        )
    )
