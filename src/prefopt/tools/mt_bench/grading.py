"""The judge of MT-Bench's protocol: grades from 1 to 10, or the better of two answers in both orders."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefopt.core.errors import PrefoptError
from prefopt.engines.client import ChatClient, ChatRequest
from prefopt.judges.server import AGAIN_TEMPERATURE, ReplyJournal
from prefopt.rules.votes import INCONSISTENT, Vote
from prefopt.tables.records import digest
from prefopt.tools.mt_bench.answers import Answers
from prefopt.tools.mt_bench.bench import Bench, Question
from prefopt.tools.mt_bench.settings import MtBenchConfig

# the last one counts: what a judge writes before may quote others
_RATINGS = (re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]"), re.compile(r"\[(\d+(?:\.\d+)?)\]"))
_VERDICTS = re.compile(r"\[\[([ABC])\]\]")
LOWEST, HIGHEST = 1, 10
Read = TypeVar("Read")


@dataclass(frozen=True)
class Grade:
    """A grade of one turn; score: None where the judge gave none that can be read. text: its words."""

    model: str
    question: Hashable
    category: str
    turn: int
    score: float | None
    text: str


@dataclass(frozen=True)
class Match:
    """Two models in one turn: the vote that both orders make, None where one of them cannot be read; the judge's words."""

    vote: Vote | None
    model_a: str
    model_b: str
    question: Hashable
    category: str
    turn: int
    texts: tuple[str, str]


def read_rating(text: str) -> float | None:
    """The grade that the text ends with, `[[7]]` or else `[7]`; None where there is none from 1 to 10."""
    for pattern in _RATINGS:
        found = pattern.findall(text)
        if found:
            score = float(found[-1])
            return score if LOWEST <= score <= HIGHEST else None
    return None


def read_verdict(text: str) -> str | None:
    """`A`, `B` or `C` (a tie) of the last `[[A]]`, `[[B]]`, `[[C]]`; None where there is none."""
    found = _VERDICTS.findall(text)
    return found[-1] if found else None


class Grader:
    """Asks the judge; replies are kept in `journal` as they arrive. calls: requests made of it."""

    def __init__(self, config: MtBenchConfig, seed: int, journal: Path | None) -> None:
        if config.judge is None:
            raise PrefoptError(
                "mt-bench: who judges? give --judge.base-url URL --judge.model NAME of an OpenAI-compatible server"
            )
        self.config, self.seed = config, seed
        self.server = config.judge
        self.client = ChatClient(config.judge)
        self.journal = ReplyJournal(journal)
        self.calls = 0

    def grades(self, bench: Bench, models: Sequence[Answers]) -> list[Grade]:
        """Every turn of every question of every model, each by itself.

        Raises:
            PrefoptError: calls failed for good; what was answered is kept.
        """
        asked = [
            (model, question, turn)
            for model in models
            for question in bench.questions
            for turn in _turns(question)
        ]
        texts = [_messages(bench, question, turn, {"": model}) for model, question, turn in asked]
        replies = self._ask(texts, read_rating)
        return [
            Grade(model.name, question.id, question.category, turn, score, text)
            for (model, question, turn), (score, text) in zip(asked, replies, strict=True)
        ]

    def matches(self, bench: Bench, models: Sequence[Answers], baseline: str | None) -> list[Match]:
        """Every pair of models (with `baseline`: every model against that one), each turn in both orders.

        Raises:
            PrefoptError: calls failed for good; what was answered is kept.
        """
        pairs = [
            pair
            for pair in itertools.combinations(models, 2)
            if baseline in (None, *(one.name for one in pair))
        ]
        asked = [
            (pair, question, turn)
            for pair in pairs
            for question in bench.questions
            for turn in _turns(question)
        ]
        texts = [
            _messages(bench, question, turn, {"_a": first, "_b": second})
            for (one, other), question, turn in asked
            for first, second in ((one, other), (other, one))
        ]
        replies = self._ask(texts, read_verdict)
        found = []
        for place, ((one, other), question, turn) in enumerate(asked):
            (first, said), (second, said_again) = replies[2 * place : 2 * place + 2]
            winner = _winner(first, second)
            name = self.server.model
            vote = None if winner is None else Vote(name, question.id, turn, one.name, other.name, winner)
            found.append(
                Match(vote, one.name, other.name, question.id, question.category, turn, (said, said_again))
            )
        return found

    def _ask(
        self, messages: Sequence[list[dict[str, str]]], read: Callable[[str], Read | None]
    ) -> list[tuple[Read | None, str]]:
        """What is read of each reply, and the reply; one that cannot be read is asked for once more."""
        replies = [reply.text for reply in self._replies(messages, again=False)]
        unread = [k for k, text in enumerate(replies) if read(text) is None]
        for k, reply in zip(unread, self._replies([messages[k] for k in unread], again=True), strict=True):
            replies[k] = reply.text
        return [(read(text), text) for text in replies]

    def _replies(self, messages: Sequence[list[dict[str, str]]], *, again: bool) -> list[Any]:
        self.calls += len(messages)
        temperature = AGAIN_TEMPERATURE if again else 0.0
        requests = [
            ChatRequest(
                said,
                self.config.judge_max_tokens,
                temperature,
                seed=int(digest(self.seed, said, again)[:8], 16) & 0x7FFFFFFF,
            )
            for said in messages
        ]
        return self.journal.ask(self.client, requests, {"server": self.server.model_dump(mode="json")})


def _turns(question: Question) -> range:
    return range(1, len(question.turns) + 1)


def _messages(
    bench: Bench, question: Question, turn: int, models: dict[str, Answers]
) -> list[dict[str, str]]:
    """The judge's prompt for one turn. models: ending of the slots (`_a`, `_b`, or none) -> whose answers."""
    values = {"question": question.turns[0]}
    values |= {f"question_{k}": text for k, text in enumerate(question.turns, start=1)}
    values |= {f"ref_answer_{k}": text for k, text in enumerate(question.reference or (), start=1)}
    for ending, model in models.items():
        turns = model.turns[question.id]
        values[f"answer{ending}"] = turns[0]
        values |= {f"answer{ending}_{k}": text for k, text in enumerate(turns, start=1)}
    return bench.templates[turn, question.reference is not None].messages(values)


def _winner(first: str | None, second: str | None) -> str | None:
    """The verdict of both orders; in the second the models stand the other way round."""
    if first is None or second is None:
        return None
    turned = {"A": "B", "B": "A"}.get(second, second)
    if first == turned:
        return {"A": "model_a", "B": "model_b"}.get(first, "tie")
    return INCONSISTENT
