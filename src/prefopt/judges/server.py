"""A model behind an OpenAI-compatible server as a judge: it compares in words, the verdict last.

Temperature 0. An answer without a verdict is asked for once more, with another seed and at `AGAIN_TEMPERATURE` (at 0
the same words would come back). Every answer is written to a journal as it arrives, so a killed run asks for nothing
twice. Where the server gives log-probs, the verdict also has a probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.engines.client import GAVE_UP, NO_ROOM, AllRejected, ChatClient, ChatReply, ChatRequest
from prefopt.engines.replies import kept_reply
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict
from prefopt.judges.parse import parse_verdict
from prefopt.judges.prompt import REASONED, load_prompt, texts_of
from prefopt.tables.journal import Journal
from prefopt.tables.owned import WORK
from prefopt.tables.records import digest

if TYPE_CHECKING:
    from prefopt.tables.context import Context

AGAIN_TEMPERATURE = 0.5
JOURNAL = "judge-journal.jsonl"


class ServerJudge:
    """Asks a server for each call; `journal`: file of answers already given (None: memory only)."""

    both_orders = True
    averages = False
    cacheable = True
    keeps_answers = True  # as they arrive, and it asks again by itself: whole rounds may come as one batch

    def __init__(self, config: PairwiseJudgeConfig, client: ChatClient, journal: Path | None) -> None:
        assert config.server is not None
        self.config = config
        self.client = client
        self.name = f"server:{config.server.model}"
        self.prompt = load_prompt(config, REASONED)
        self.journal = ReplyJournal(journal)

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call.

        Raises:
            PrefoptError: some calls failed after all retries; the others are in the journal, and the run continues
                there when it is started again.
        """
        requests = [self._request(call, seed, again=False) for call in batch]
        replies = self._ask(requests)
        unread = [
            k for k, reply in enumerate(replies) if not reply.error and parse_verdict(reply.text) is None
        ]
        second = self._ask([self._request(batch[k], seed, again=True) for k in unread])
        for k, reply in zip(unread, second, strict=True):
            replies[k] = _both(replies[k], reply)
        twice = set(unread)
        return [replace(_verdict(reply), calls=1 + (k in twice)) for k, reply in enumerate(replies)]

    def _request(self, call: Comparison, seed: int, *, again: bool) -> ChatRequest:
        """The request; its seed follows from what is asked, not from its place in a batch."""
        messages = self.prompt.messages(texts_of(call, self.config))
        own = int(digest(seed, call.prompt_id, messages, again)[:8], 16) & 0x7FFFFFFF
        temperature = AGAIN_TEMPERATURE if again else 0.0
        return ChatRequest(
            messages, self.config.max_new_tokens, temperature, seed=own, top_logprobs=self.config.top_logprobs
        )

    def _ask(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        return self.journal.ask(self.client, requests, self.describe())

    def describe(self) -> dict[str, Any]:
        """Kind, server, prompt and what else the verdicts depend on; no key."""
        assert self.config.server is not None
        return {
            "kind": "server",
            "server": self.config.server.model_dump(mode="json"),
            "prompt_digest": digest(self.prompt.text),
            "rubric": self.config.rubric,
            "use_reference": self.config.use_reference,
            "max_new_tokens": self.config.max_new_tokens,
            "top_logprobs": self.config.top_logprobs,
        }


class ReplyJournal:
    """Key -> reply in a journal, written as they arrive. path None: memory only."""

    def __init__(self, path: Path | None) -> None:
        self.known: dict[str, ChatReply] = {}
        self._journal = Journal(path)
        for entry in self._journal.read():
            reply = kept_reply(entry.get("reply"))
            if reply is None or not isinstance(entry.get("key"), str):
                self._journal.set_aside += 1
            else:
                self.known[entry["key"]] = reply
        self._journal.tell("their calls are made again")

    def ask(
        self, client: ChatClient, requests: Sequence[ChatRequest], about: Mapping[str, Any]
    ) -> list[ChatReply]:
        """One reply per request, those that are known without a call. about: what else the replies depend on.

        Raises:
            PrefoptError: some calls failed after all retries; the others are kept.
        """
        keys = [digest(about, asdict(request)) for request in requests]
        first = {key: k for k, key in reversed(list(enumerate(keys))) if key not in self.known}
        todo = sorted(first.values())

        def store(index: int, reply: ChatReply) -> None:
            if reply.error != GAVE_UP:
                self.add(keys[todo[index]], reply)

        with self:
            try:
                client.ask([requests[k] for k in todo], store)
            except AllRejected as error:
                # the settings are right where they have brought answers before: then it is these calls
                if not any(not reply.error for reply in self.known.values()):
                    raise
                for place, reply in error.replies.items():
                    store(place, reply)
        failed = sum(keys[k] not in self.known for k in todo)
        if failed:
            raise PrefoptError(
                f"judge: {failed} of {len(requests)} calls failed after all retries; the others are kept, "
                "start the same command again"
            )
        return [self.known[key] for key in keys]

    def add(self, key: str, reply: ChatReply) -> None:
        """Keep a reply, on the disk too."""
        self.known[key] = reply
        self._journal.add({"key": key, "reply": asdict(reply)})

    def __enter__(self) -> ReplyJournal:
        self._journal.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(*error)


def _both(first: ChatReply, second: ChatReply) -> ChatReply:
    """The second answer, with the cost of both in time and tokens."""
    costs = {
        name: getattr(first, name) + getattr(second, name)
        for name in ("latency_s", "prompt_tokens", "completion_tokens")
        if getattr(first, name) is not None and getattr(second, name) is not None
    }
    return ChatReply(**{**vars(second), **costs})


def _verdict(reply: ChatReply) -> Verdict:
    winner = parse_verdict(reply.text)
    cost = (reply.latency_s, reply.prompt_tokens, reply.completion_tokens)
    if reply.error:
        return Verdict("missing" if reply.error == NO_ROOM else "unparsed", None, reply.error, *cost)
    if winner is None:
        return Verdict("unparsed", None, reply.text, *cost)
    return Verdict(winner, soft_verdict(reply.top_logprobs, winner), reply.text, *cost)


def soft_verdict(tops: Sequence[Mapping[str, float]] | None, winner: str) -> float | None:
    """P(first better) = p(A) / (p(A) + p(B)) at the last token that is a verdict; None where there is none to read.

    tops: per token of the answer, the likeliest tokens and their log-probs, nats. A letter that is not among them counts as 0.
    A probability that contradicts the verdict in words is not believed.
    """
    for top in reversed(tops or ()):
        best = max(top, key=lambda token: top[token], default="")
        if _letter(best) not in ("A", "B"):
            continue
        mass = {"A": 0.0, "B": 0.0}
        for token, logp in top.items():
            if _letter(token) in mass:
                mass[_letter(token)] += math.exp(min(logp, 0.0))
        p = mass["A"] / (mass["A"] + mass["B"]) if mass["A"] + mass["B"] else 0.5
        named = "first" if _letter(best) == "A" else "second"
        return p if named == winner else None
    return None


def _letter(token: str) -> str:
    """The token without the blanks and marks around it."""
    return token.strip(" \t\n*_[]()\"'`.:Ġ▁")


def open_judge(config: PairwiseJudgeConfig, context: Context) -> ServerJudge:
    """The judge behind `config.server`.

    Raises:
        PrefoptError: no server is named, or the judge prompt is not usable.
        ModuleNotFoundError: the package `openai` is missing.
    """
    import openai  # noqa: F401 (missing packages are told before the first call)

    if config.server is None:
        raise PrefoptError("judge server: no server; set judge.server.base_url and judge.server.model")
    folder = context.folder.path / WORK if context.folder else None
    return ServerJudge(config, ChatClient(config.server), folder / JOURNAL if folder else None)
