"""Exports of annotation tools: Argilla (records as objects or as flat columns) and Label Studio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.forms.ask import numeric
from prefopt.stages.data.reading.forms.compared import TIE, judged, side_of, two_answers
from prefopt.stages.data.reading.forms.pairs import words
from prefopt.stages.data.reading.forms.ranked import ranked
from prefopt.stages.data.reading.forms.single import is_truth, scored, unpaired
from prefopt.tables.records import Row

RESPONSES, SUGGESTION = ".responses", ".suggestion"


# ---- Argilla


def is_argilla(row: Mapping[str, Any]) -> bool:
    """A record with fields and responses, or flat columns `QUESTION.responses` (`QUESTION-suggestion` before version 2)."""
    ends = (RESPONSES, SUGGESTION, "-suggestion")
    return (isinstance(row.get("fields"), dict) and "responses" in row) or any(n.endswith(ends) for n in row)


def argilla_votes(row: Mapping[str, Any]) -> tuple[Row, dict[str, list[Any]]]:
    """A record's fields (and its own id), and the answers given to each question; a suggestion where nobody answered."""
    if isinstance(row.get("fields"), dict):
        given, suggested = row.get("responses") or {}, row.get("suggestions") or {}
        votes = {name: _values(found) for name, found in given.items()} if isinstance(given, dict) else {}
        hints = (
            {name: _values(found) for name, found in suggested.items()} if isinstance(suggested, dict) else {}
        )
        fields = dict(row["fields"])
        if isinstance(row.get("id"), str | int):
            fields["id"] = row["id"]
        if isinstance(row.get("metadata"), dict):
            fields |= {name: value for name, value in row["metadata"].items() if name not in fields}
    else:
        ends = (RESPONSES, SUGGESTION)
        row = _as_flat(row)
        votes = {n.removesuffix(RESPONSES): _values(v) for n, v in row.items() if n.endswith(RESPONSES)}
        hints = {n.removesuffix(SUGGESTION): _values(v) for n, v in row.items() if n.endswith(SUGGESTION)}
        questions = {n.removesuffix(e) for n in row for e in ends if n.endswith(e)}
        fields = {n: v for n, v in row.items() if not any(n.startswith(f"{q}.") for q in questions)}
    return fields, {**hints, **{name: found for name, found in votes.items() if found}}


def _as_flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of Argilla's first version under the names of the second."""
    old = {name.removesuffix("-suggestion") for name in row if name.endswith("-suggestion")}
    if not old:
        return row
    renamed = {name: f"{name}{RESPONSES}" for name in old}
    renamed |= {f"{name}-suggestion": f"{name}{SUGGESTION}" for name in old}
    renamed |= {f"{name}-suggestion-metadata": f"{name}{SUGGESTION}.metadata" for name in old}
    return {renamed.get(name, name): value for name, value in row.items()}


def _values(found: Any) -> list[Any]:
    items = found if isinstance(found, list) else [found]
    values = [item.get("value") if isinstance(item, dict) and "value" in item else item for item in items]
    return [value for value in values if value is not None]


def argilla(row: Row) -> Row:
    """Argilla, two answers: a question names the better one, or ranks them; most votes decide."""
    fields, votes = argilla_votes(row)
    sides = two_answers(fields)
    if sides is None:
        raise BadRow("expected two answers")
    shares = [s for values in _verdicts(votes) for value in values if (s := _vote(value, sides)) is not None]
    return _by_votes(fields, sides, shares)


def _verdicts(votes: Mapping[str, list[Any]]) -> list[list[Any]]:
    """What was said to questions that compare; a rating of 1 is no vote for `response1`."""
    return [values for name, values in votes.items() if not {"rating", "score"} & set(words(name))]


def _vote(value: Any, sides: tuple[str, str, str, str]) -> float | None:
    """One annotator's word on two answers: a name, or places of both."""
    if isinstance(value, list):  # a ranking: [{"value": "response1", "rank": 1}, ...]
        ranks = {e.get("value"): numeric(e.get("rank")) for e in value if isinstance(e, dict)}
        first, second = ranks.get(sides[0]), ranks.get(sides[1])
        if first is None or second is None:
            return None
        return 0.5 if first == second else float(second < first)
    return side_of(value, sides)


def _by_votes(row: Row, sides: tuple[str, str, str, str], shares: list[float]) -> Row:
    if not shares:
        raise BadRow("verdict is missing")
    counts = Counter(shares)
    mean = (counts[1.0] + 0.5 * counts[0.5]) / len(shares)
    return judged(row, *sides[:2], (), lambda _: mean)


def _first_vote(votes: Mapping[str, list[Any]], fits: Any) -> list[Any]:
    return next((values for values in votes.values() if values and all(fits(v) for v in values)), [])


def has_two(row: Mapping[str, Any]) -> bool:
    """Whether an Argilla record compares two answers."""
    if not is_argilla(row):
        return False
    fields, votes = argilla_votes(row)
    sides = two_answers(fields)
    return sides is not None and any(
        _vote(v, sides) is not None for values in _verdicts(votes) for v in values
    )


def has_rating(row: Mapping[str, Any]) -> bool:
    """Whether an Argilla record rates one answer by numbers."""
    return is_argilla(row) and bool(_first_vote(argilla_votes(row)[1], lambda v: numeric(v) is not None))


def has_label(row: Mapping[str, Any]) -> bool:
    """Whether an Argilla record calls one answer good or bad."""
    return is_argilla(row) and bool(_first_vote(argilla_votes(row)[1], _is_word))


def _is_word(value: Any) -> bool:
    return is_truth(value) and (isinstance(value, bool) or numeric(value) is None)


def answer_ratings(row: Mapping[str, Any]) -> dict[str, float]:
    """Field of an answer -> the mean of its ratings, where an Argilla record has a rating question for each answer."""
    fields, votes = argilla_votes(row)
    found = {}
    for field in fields:
        own = {(*words(field), "rating"), (*words(field), "score")}
        values = [numeric(v) for name, given in votes.items() if words(name) in own for v in given]
        known = [float(value) for value in values if value is not None]
        if known:
            found[field] = sum(known) / len(known)
    return found


def has_ratings(row: Mapping[str, Any]) -> bool:
    """Whether an Argilla record rates each of several answers."""
    return is_argilla(row) and len(answer_ratings(row)) > 1


def argilla_ratings(row: Row) -> Row:
    """Argilla, several answers with a rating each (distilabel's PreferenceToArgilla)."""
    fields, _ = argilla_votes(row)
    ratings = answer_ratings(row)
    entries = [{"text": fields.pop(name), "score": score} for name, score in ratings.items()]
    return ranked({**fields, "completions": entries})


def argilla_rating(row: Row) -> Row:
    """Argilla, one answer with ratings: the mean of what annotators gave is its score."""
    fields, votes = argilla_votes(row)
    values = [float(numeric(v)) for v in _first_vote(votes, lambda v: numeric(v) is not None)]  # type: ignore[arg-type]
    return scored({**fields, "score": sum(values) / len(values) if values else None})


def argilla_label(row: Row) -> Row:
    """Argilla, one answer called good or bad: most votes decide."""
    fields, votes = argilla_votes(row)
    return unpaired({**fields, "label": _majority(_first_vote(votes, _is_word))})


def _majority(values: list[Any]) -> Any:
    if not values:
        return None
    (best, count), *others = Counter(str(v).strip().lower() for v in values).most_common(2)
    if others and others[0][1] == count:
        raise BadRow(TIE)
    return best


# ---- Label Studio


def label_studio_results(row: Mapping[str, Any]) -> list[Row]:
    """The values of all results of a task's annotations; cancelled ones do not count."""
    found = []
    for annotation in row.get("annotations") or []:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            results = annotation.get("result") or []
            found += [r["value"] for r in results if isinstance(r, dict) and isinstance(r.get("value"), dict)]
    return found


def _has_result(row: Mapping[str, Any], key: str) -> bool:
    is_task = isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list)
    return is_task and any(key in value for value in label_studio_results(row))


def is_pairwise(row: Mapping[str, Any]) -> bool:
    """Whether a task of Label Studio compares two texts."""
    return _has_result(row, "selected")


def is_rated(row: Mapping[str, Any]) -> bool:
    """Whether a task of Label Studio rates one text by a number."""
    return _has_result(row, "rating")


def is_chosen(row: Mapping[str, Any]) -> bool:
    """Whether a task of Label Studio calls one text good or bad."""
    return _has_result(row, "choices")


def _task(row: Row) -> Row:
    data = dict(row["data"]) if isinstance(row.get("data"), dict) else {}
    return {**data, "id": row["id"]} if isinstance(row.get("id"), str | int) and "id" not in data else data


def label_studio(row: Row) -> Row:
    """Label Studio, pairwise: `selected` is left (the first answer of the task's data) or right; most votes decide."""
    data = _task(row)
    sides = two_answers(data)
    if sides is None:
        raise BadRow("expected two answers")
    known = {"left": 0.0, "right": 1.0}
    said = [value.get("selected") for value in label_studio_results(row) if "selected" in value]
    return _by_votes(data, sides, [known.get(s, 0.5) for s in said if isinstance(s, str)])


def label_studio_rating(row: Row) -> Row:
    """Label Studio, one answer with ratings: their mean is its score."""
    values = [numeric(value.get("rating")) for value in label_studio_results(row) if "rating" in value]
    known = [float(value) for value in values if value is not None]
    return scored({**_task(row), "score": sum(known) / len(known) if known else None})


def label_studio_label(row: Row) -> Row:
    """Label Studio, one answer with choices that call it good or bad; most votes decide."""
    lists = [
        value["choices"] for value in label_studio_results(row) if isinstance(value.get("choices"), list)
    ]
    return unpaired(
        {**_task(row), "label": _majority([c for choices in lists for c in choices if is_truth(c)])}
    )
