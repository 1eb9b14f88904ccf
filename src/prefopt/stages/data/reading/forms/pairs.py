"""Forms of pairs: two answers of which the columns' own names say which is the better."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from prefopt.stages.data.reading.dialogue import BadRow, Content, common_text, content, split_pair
from prefopt.stages.data.reading.forms.ask import numeric, take_gold, take_prompt
from prefopt.tables.records import Row

SIDES = ("chosen", "rejected")
# words for the better and the worse answer within a column's name, `chosen_response` / `rejected_response`
BETTER_WORSE = (
    ("chosen", "rejected"), ("preferred", "non_preferred"), ("preferred", "dispreferred"),
    ("preferred", "unpreferred"), ("preferred", "nonpreferred"), ("preferred", "rejected"),
    ("accepted", "rejected"), ("selected", "rejected"), ("accept", "reject"), ("better", "worse"),
    ("best", "worst"), ("winner", "loser"), ("winning", "losing"), ("win", "lose"), ("good", "bad"),
    ("positive", "negative"), ("pos", "neg"), ("desired", "undesired"), ("w", "l"), ("j", "k"),
)  # fmt: skip
SCORE_WORDS = frozenset(
    {
        "score",
        "scores",
        "rating",
        "ratings",
        "reward",
        "rewards",
        "avg",
        "average",
        "mean",
        "rm",
        "overall",
        "value",
    }
)
# columns about an answer that are no answer: a name with such a word
ABOUT = SCORE_WORDS | {
    "rank", "model", "models", "id", "ids", "uuid", "source", "type", "name", "policy", "generator", "tokens", "len",
    "length", "logps", "logp", "logprob", "logprobs", "rationale", "rationales", "reason", "critique", "explanation",
    "feedback", "count", "label", "category", "images", "status",
}  # fmt: skip
# what answers are called: such words may stand in the name of a side or of its score
ANSWER_WORDS = frozenset({
    "response", "answer", "output", "completion", "generation", "generations", "conversation", "reply", "text", "ref",
    "candidate", "summary", "solution", "assistant", "option", "human", "model", "message", "messages",
})  # fmt: skip
_WORDS = re.compile(r"[^0-9a-z]+")


def words(name: str) -> tuple[str, ...]:
    """The words of a column's name in small letters: `chosenAvg-Rating` -> chosen, avg, rating."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word for word in _WORDS.split(spaced.lower()) if word)


@functools.lru_cache(maxsize=64)
def _sides(names: tuple[str, ...]) -> tuple[str, str, str, str] | None:
    by_words = {words(name): name for name in reversed(names)}
    found = []
    for name in names:
        for better, worse in BETTER_WORSE:
            parts = words(name)
            if better not in parts or ABOUT & set(parts):
                continue
            at = parts.index(better)
            other = by_words.get((*parts[:at], *worse.split("_"), *parts[at + 1 :]))
            if other is not None and other != name:
                found.append((len(parts), names.index(name), (name, other, better, worse)))
    return min(found)[2] if found else None


def sides_of(row: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    """Columns of the better and the worse answer, and the words that tell them apart; None where no two are such.

    The plain `chosen` and `rejected` go first, then the shortest name.
    """
    names = tuple(name for name, value in row.items() if isinstance(value, str | list | dict))
    if set(SIDES) <= set(names):
        return (*SIDES, *SIDES)
    return _sides(names)


@functools.lru_cache(maxsize=256)
def _score_name(names: tuple[str, ...], side: str, word: str) -> str | None:
    """The column with the score of a side: `score_chosen`, `chosen_avg_rating`, `chosen-rating`, ..."""
    wanted = set(word.split("_"))
    fitting = []
    for name in names:
        parts = set(words(name))
        others = parts - wanted - {side}
        is_score = bool(others & SCORE_WORDS) and others <= SCORE_WORDS | ANSWER_WORDS
        if (wanted <= parts or side in parts) and is_score:
            fitting.append((name != f"score_{side}", len(others), names.index(name), name))
    return min(fitting)[3] if fitting else None


def take_scores(row: Row, better: str = "chosen", worse: str = "rejected") -> None:
    """Give `row` its score_chosen and score_rejected, from scores, ratings or rewards under any usual name, or ranks."""
    names = tuple(row)
    for side, word, other in (("chosen", better, worse), ("rejected", worse, better)):
        found = _score_name(names, side, word)
        if found is not None and set(other.split("_")) <= set(words(found)) - set(word.split("_")):
            found = None  # `non_preferred_score` is none of `preferred`
        if found is not None:
            value = numeric(row[found])
            if value is not None:
                del row[found]
                row[f"score_{side}"] = value
        elif numeric(row.get(f"rank_{side}")) is not None:
            row[f"score_{side}"] = -numeric(row[f"rank_{side}"])  # type: ignore[operator]  # rank 0 is the best


def make_pair(row: Row, prompt: Content | None, chosen: Content, rejected: Content) -> Row:
    """The row with its prompt and answers in one form."""
    prompt, chosen, rejected = split_pair(prompt, chosen, rejected)
    return {**row, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def preference(row: Row) -> Row:
    """Two answers whose names say which is better, as text, messages or ShareGPT entries, and the prompt they answer."""
    row = dict(row)
    better, worse, *pair_words = sides_of(row) or (*SIDES, *SIDES)
    answers = [row.pop(better, None), row.pop(worse, None)]
    prompt = take_prompt(row)
    sides = [content(said, f"{side} answer") for said, side in zip(answers, SIDES, strict=True)]
    take_gold(row)
    take_scores(row, *pair_words)
    return make_pair(row, prompt, *sides)


def implicit(row: Row) -> Row:
    """Chosen and rejected that begin with the prompt."""
    row = dict(row)
    sides = [content(row.pop(name, None), f"{name} answer") for name in SIDES]
    take_gold(row)
    take_scores(row)
    return make_pair(row, None, *sides)


def simpo(row: Row) -> Row:
    """On-policy pairs of SimPO: beside chosen and rejected all sampled answers and the reward model's scores of them."""
    row = preference(row)
    texts, scores = row.get("all_generated_responses"), row.get("all_rm_scores")
    if isinstance(texts, list) and isinstance(scores, list) and len(texts) == len(scores):
        known = {text: score for text, score in zip(texts, scores, strict=True) if isinstance(text, str)}
        for side in SIDES:
            said = row[side][-1]["content"] if isinstance(row[side], list) else row[side]
            value = numeric(known.get(said))
            if value is not None:
                row.setdefault(f"score_{side}", value)
    return row


def step_dpo(row: Row) -> Row:
    """Step-DPO: the answers go on from steps that both share; those stand in front of each, so that they are whole."""
    row = dict(row)
    start = row.pop("initial_reason_steps", None)
    if not isinstance(start, str):
        raise BadRow("initial_reason_steps is not text", f"{start!r:.60}")
    for side in SIDES:
        if isinstance(row.get(side), str):
            row[side] = start + row[side]
    return preference(row)


def ms_swift(row: Row) -> Row:
    """ms-swift: the conversation ends with the chosen answer; the rejected one is a text or a conversation of its own."""
    row = dict(row)
    name = "rejected_response" if row.get("rejected_response") is not None else "rejected_messages"
    rejected = content(row.pop(name, None), "rejected answer")
    answered = next((n for n in ("response", "output") if row.get(n) is not None), None)
    if answered is not None:  # the older form: query, response, history
        chosen = content(row.pop(answered), "chosen answer")
        return make_pair(row, take_prompt(row), chosen, rejected)
    talk = take_prompt(row)
    if not isinstance(talk, list) or talk[-1]["role"] != "assistant" or len(talk) < 2:
        raise BadRow("chosen answer is missing", "the conversation does not end with it")
    if isinstance(rejected, list) and rejected[0]["role"] != "assistant":
        return make_pair(row, None, talk, rejected)
    last = max((n for n, message in enumerate(talk) if message["role"] == "user"), default=0) + 1
    return make_pair(row, talk[:last], talk[last:], rejected)


def openai(row: Row) -> Row:
    """OpenAI's preference files: `input` holds messages and tools, the outputs are lists of messages."""
    row = dict(row)
    asked = row.pop("input", None)
    if not isinstance(asked, dict):
        raise BadRow("input is not an object with messages", f"{asked!r:.60}")
    prompt = content(asked.get("messages"), "prompt")
    sides = [
        content(row.pop(name, None), f"{side} answer")
        for name, side in (("preferred_output", "chosen"), ("non_preferred_output", "rejected"))
    ]
    if asked.get("tools"):
        row["tools"] = asked["tools"]
    return make_pair(row, prompt, *sides)


def transcripts(row: Row) -> Row:
    """Two whole texts with two scores (HH-RLHF); the higher score is chosen."""
    row = dict(row)
    texts, scores = row.pop("text", None), row.pop("score", None)
    values = [numeric(score) for score in scores] if isinstance(scores, list) else []
    if not (isinstance(texts, list) and len(texts) == len(values) == 2 and None not in values):
        raise BadRow("expected two texts and two scores", f"{texts!r:.40} {scores!r:.40}")
    first, second = values
    if first == second:
        raise BadRow("no preference (tie)")
    best = 0 if first > second else 1  # type: ignore[operator]
    sides = [content(texts[i], f"{n} answer") for i, n in ((best, "chosen"), (1 - best, "rejected"))]
    is_text = all(isinstance(side, str) for side in sides)
    parts = common_text(*sides) if is_text else split_pair(None, *sides)  # type: ignore[arg-type]
    pair = dict(zip(("prompt", *SIDES), parts, strict=True))
    return {**row, **pair, "score_chosen": values[best], "score_rejected": values[1 - best]}
