"""What can be wrong with a row. One function and one entry of `FINDINGS` each; a hit names the row and says why."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prefopt.rules.content import same
from prefopt.stages.data.reading.naming import content_key
from prefopt.tables.records import digest
from prefopt.tools.check.items import ANSWERS, Checked, Item, answers_of, completion_texts, words_of
from prefopt.tools.check.near import TestPrompts, jaccard, near_groups, shingles

EMPTY = ("empty", "message without content")
FENCE = 3.0  # Tukey's outer fences, in interquartile ranges
FEWEST_SCORES = 20  # below, no score is called an outlier
DISAGREE = 0.5  # overall against fine-grained score, both as shares of their largest value
# characters that decoding went wrong on: U+FFFD, UTF-8 read as Latin-1 or Windows-1252, control characters
BROKEN = re.compile(
    "\ufffd|Ã[\u0080-\u00bf]|â\u20ac[\u2122\u0153\u009d\u201c\u201d\u00a6]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


class Thresholds(Protocol):
    """The settings that findings read (`CheckConfig` has them, and reads the findings' names)."""

    @property
    def threshold(self) -> float:
        """Jaccard similarity from which texts are near-duplicates."""

    @property
    def ngram(self) -> int:
        """Words of a shingle."""

    @property
    def longest(self) -> int:
        """Characters beyond which an answer is called long."""

    @property
    def containment(self) -> float:
        """Share of a test prompt's shingles from which a row is contaminated."""


@dataclass(frozen=True)
class Hit:
    """A row that a check points at; `other`: number of the row it clashes with; `note`: details."""

    number: int
    other: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Checking:
    """What the functions see: the file, settings, test prompts (None: no test file)."""

    checked: Checked
    config: Thresholds
    tests: TestPrompts | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """prompts, completions, pairs or unpaired."""
        return self.checked.form.kind


def unusable(data: Checking) -> Iterator[Hit]:
    """Rows that no stage can read."""
    for item in data.checked.items:
        if item.row is None and not item.reason.startswith(EMPTY) and item.reason != "identical answers":
            yield Hit(item.number, note=item.reason)


def empty(data: Checking) -> Iterator[Hit]:
    """Prompt or answer without words."""
    for item in data.checked.items:
        if item.row is None and item.reason.startswith(EMPTY):
            yield Hit(item.number, note=item.reason)


def identical(data: Checking) -> Iterator[Hit]:
    """Chosen and rejected are the same text, up to space around it."""
    for item in data.checked.items:
        if item.row is None:
            if item.reason == "identical answers":
                yield Hit(item.number)
        elif data.kind == "pairs" and same(item.row["chosen"], item.row["rejected"]):
            yield Hit(item.number)


def duplicates(data: Checking) -> Iterator[Hit]:
    """Rows whose prompt and answers stand in an earlier row."""
    first: dict[str, int] = {}
    for item in data.checked.usable:
        assert item.row is not None
        earlier = first.setdefault(content_key(item.row, data.kind), item.number)
        if earlier != item.number:
            yield Hit(item.number, earlier)


def _distinct(data: Checking) -> list[Item]:
    repeated = {hit.number for hit in duplicates(data)}
    return [item for item in data.checked.usable if item.number not in repeated]


def near_duplicates(data: Checking) -> Iterator[Hit]:
    """Prompt and every answer nearly those of an earlier row (Jaccard of word runs)."""
    if not ANSWERS[data.kind]:
        return
    items = _distinct(data)
    if data.kind == "unpaired":  # both labels of one answer are a contradiction, no repetition
        keys = {label: [i for i in items if i.row and i.row["label"] is label] for label in (True, False)}
    else:
        keys = {True: items}
    for members in keys.values():
        rows = [{"prompt": item.prompt, **answers_of(item, data.kind)} for item in members]
        for group in near_groups(rows, data.config.threshold, data.config.ngram):
            yield from (Hit(members[i].number, members[group[0]].number) for i in group[1:])


def near_prompts(data: Checking) -> Iterator[Hit]:
    """A prompt that is nearly another row's, but not the same: the two can fall on both sides of a split."""
    by_prompt: dict[str, list[Item]] = {}
    for item in data.checked.usable:
        by_prompt.setdefault(item.prompt, []).append(item)
    texts = list(by_prompt)
    rows = [{"prompt": text} for text in texts]
    for group in near_groups(rows, data.config.threshold, data.config.ngram):
        first = by_prompt[texts[group[0]]][0].number
        yield from (Hit(item.number, first) for i in group[1:] for item in by_prompt[texts[i]])


def contradictory(data: Checking) -> Iterator[Hit]:
    """The same two answers preferred both ways round, or the same answer with both labels."""
    if not ANSWERS[data.kind]:
        return
    places: dict[str, int] = {}
    for item in data.checked.usable:
        places.setdefault(_claim(item, data.kind, False), item.number)
    for item in data.checked.usable:
        other = places.get(_claim(item, data.kind, True))
        if other is not None:
            yield Hit(item.number, other)


def _claim(item: Item, kind: str, reverse: bool) -> str:
    assert item.row is not None
    if kind == "unpaired":
        return digest(item.prompt_key, item.row["completion"], item.row["label"] != reverse)
    sides = ("rejected", "chosen") if reverse else ("chosen", "rejected")
    return digest(item.prompt_key, *(item.row[side] for side in sides))


def near_identical(data: Checking) -> Iterator[Hit]:
    """Chosen and rejected differ in little (Jaccard of word runs): a small signal, or a copy with a typo."""
    if data.kind != "pairs":
        return
    for item in data.checked.usable:
        sets = [shingles(text, data.config.ngram) for text in answers_of(item, data.kind).values()]
        assert item.row is not None
        if jaccard(*sets) >= data.config.threshold and not same(item.row["chosen"], item.row["rejected"]):
            yield Hit(item.number)


# ---- scores


def _scores(item: Item) -> tuple[float | None, float | None]:
    assert item.row is not None
    return item.row.get("score_chosen"), item.row.get("score_rejected")


def swapped_scores(data: Checking) -> Iterator[Hit]:
    """The rejected answer scores higher than the chosen one."""
    yield from _by_scores(data, lambda chosen, rejected: chosen < rejected)


def tied_scores(data: Checking) -> Iterator[Hit]:
    """A preference between answers of equal score."""
    yield from _by_scores(data, lambda chosen, rejected: chosen == rejected)


def _by_scores(data: Checking, wrong: Callable[[float, float], bool]) -> Iterator[Hit]:
    for item in data.checked.usable if data.kind == "pairs" else ():
        chosen, rejected = _scores(item)
        if chosen is not None and rejected is not None and wrong(chosen, rejected):
            yield Hit(item.number, note=f"chosen {chosen:g}, rejected {rejected:g}")


def missing_scores(data: Checking) -> Iterator[Hit]:
    """No score, where other rows have one."""
    rows = [(item, _all_scores(item, data.kind)) for item in data.checked.usable]
    if any(value is not None for _, scores in rows for value in scores):
        yield from (Hit(item.number) for item, scores in rows if None in scores)


def _all_scores(item: Item, kind: str) -> list[float | None]:
    assert item.row is not None
    if kind == "pairs":
        return list(_scores(item))
    found = item.row["completions"] if kind == "completions" else ()
    return [_number(entry.get("score")) for entry in found]


def _number(value: Any) -> float | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if fits and value == value else None


def score_outliers(data: Checking) -> Iterator[Hit]:
    """A score far outside all others (beyond 3 interquartile ranges from the quartiles)."""
    rows = [
        (item, [s for s in _all_scores(item, data.kind) if s is not None]) for item in data.checked.usable
    ]
    values = [value for _, scores in rows for value in scores]
    if len(values) < FEWEST_SCORES:
        return
    low, _, high = statistics.quantiles(values, n=4)
    reach = FENCE * (high - low)
    if reach <= 0:
        return
    for item, scores in rows:
        far = [s for s in scores if not low - reach <= s <= high + reach]
        if far:
            yield Hit(item.number, note=f"score {far[0]:g}; quartiles {low:g} and {high:g}")


def score_disagrees(data: Checking) -> Iterator[Hit]:
    """The overall score contradicts the fine-grained one (UltraFeedback: 10 written where 1 was meant)."""
    if data.kind != "completions":
        return
    found = [
        (item, _number(entry.get("score")), fine_grained(entry))
        for item in data.checked.usable
        for entry in (item.row or {})["completions"]
    ]
    both = [(item, whole, fine) for item, whole, fine in found if whole is not None and fine is not None]
    largest = max((abs(whole) for _, whole, _ in both), default=0), max((abs(f) for *_, f in both), default=0)
    if not all(largest):
        return
    seen: set[int] = set()
    for item, whole, fine in both:
        if abs(whole / largest[0] - fine / largest[1]) > DISAGREE and item.number not in seen:
            seen.add(item.number)
            yield Hit(item.number, note=f"overall {whole:g}, fine-grained {fine:g}")


def fine_grained(entry: Mapping[str, Any]) -> float | None:
    """The fine-grained score of a completion: its own column, else the mean of its annotations' ratings."""
    for name in ("fine-grained_score", "fine_grained_score"):
        if _number(entry.get(name)) is not None:
            return _number(entry[name])
    notes = entry.get("annotations")
    ratings = []
    for note in notes.values() if isinstance(notes, dict) else ():
        try:
            ratings.append(float(note["Rating"]))
        except (KeyError, TypeError, ValueError):
            continue
    return statistics.fmean(ratings) if ratings else None


# ---- completions, texts, test file


def empty_completions(data: Checking) -> Iterator[Hit]:
    """Rows with a completion without words; the reader leaves that completion out."""
    yield from _in_rows(data, lambda texts: sum(not said.strip() for said in texts))


def repeated_completions(data: Checking) -> Iterator[Hit]:
    """Rows in which several completions are the same text."""
    yield from _in_rows(data, lambda texts: len(texts) - len({said.strip() for said in texts}))


def _in_rows(data: Checking, count: Callable[[Sequence[str]], int]) -> Iterator[Hit]:
    for item in data.checked.usable if data.kind == "completions" else ():
        assert item.row is not None
        if found := count(completion_texts(item.row)):
            yield Hit(item.number, note=f"{found} of {len(item.row['completions'])}")


def long_rows(data: Checking) -> Iterator[Hit]:
    """Prompt and longest answer have more characters than `longest`."""
    for item in data.checked.usable:
        length = len(item.prompt) + max(map(len, answers_of(item, data.kind).values()), default=0)
        if length > data.config.longest:
            yield Hit(item.number, note=f"{length} characters")


def broken_text(data: Checking) -> Iterator[Hit]:
    """Signs of a wrong encoding, or control characters."""
    for item in data.checked.usable:
        for text in (item.prompt, *answers_of(item, data.kind).values()):
            if found := BROKEN.search(text):
                yield Hit(item.number, note=ascii(text[max(0, found.start() - 8) : found.end() + 8]))
                break


def contaminated(data: Checking) -> Iterator[Hit]:
    """The prompt is a test prompt, word for word (letters' case and punctuation aside)."""
    yield from _tested(data, exactly=True)


def near_contaminated(data: Checking) -> Iterator[Hit]:
    """Much of a test prompt (runs of words) stands in the prompt."""
    yield from _tested(data, exactly=False)


def _tested(data: Checking, *, exactly: bool) -> Iterator[Hit]:
    if data.tests is None:
        return
    found = data.cache.setdefault("tests", {})
    for item in data.checked.usable:
        if item.prompt not in found:
            found[item.prompt] = data.tests.lookup(item.prompt, data.config.containment)
        hit = found[item.prompt]
        if hit is not None and hit[1] is exactly and words_of(item.prompt):
            yield Hit(item.number, note=f"test row {hit[0] + 1}")


@dataclass(frozen=True)
class Finding:
    """A check: what finds it, and whether its rows may be left out of the cleaned copy."""

    find: Callable[[Checking], Iterator[Hit]]
    removable: bool = True

    @property
    def about(self) -> str:
        """One line for table and docs."""
        return " ".join((self.find.__doc__ or "").split())


FINDINGS: dict[str, Finding] = {
    "unusable": Finding(unusable),
    "empty": Finding(empty),
    "identical": Finding(identical),
    "duplicates": Finding(duplicates),
    "near_duplicates": Finding(near_duplicates),
    "near_prompts": Finding(near_prompts),
    "contradictory": Finding(contradictory),
    "near_identical": Finding(near_identical),
    "swapped_scores": Finding(swapped_scores),
    "tied_scores": Finding(tied_scores),
    "missing_scores": Finding(missing_scores),
    "score_outliers": Finding(score_outliers, removable=False),  # who is one depends on who is left
    "score_disagrees": Finding(score_disagrees, removable=False),
    "empty_completions": Finding(empty_completions),
    "repeated_completions": Finding(repeated_completions),
    "long_rows": Finding(long_rows),
    "broken_text": Finding(broken_text),
    "contaminated": Finding(contaminated),
    "near_contaminated": Finding(near_contaminated),
}
