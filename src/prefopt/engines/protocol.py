"""What an engine is asked and what it answers: the protocols of all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from prefopt.tables.records import digest

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. temperature 0 is greedy; top_k 0 and top_p 1 are off; lengths in tokens.

    logprobs: also give the sampler's own log-prob of what it wrote, where the engine can.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    logprobs: bool = False


@dataclass(frozen=True)
class Completion:
    """One answer: its text without end token, its token ids with it, and why it ended.

    token_ids: None where the engine shows none (a server); `counted` is then its own count, if any. logp: sum of the
    sampler's log-probs of the tokens, nats, before temperature and truncation; None where not asked for.
    """

    text: str
    token_ids: tuple[int, ...] | None
    finish_reason: FinishReason
    counted: int | None = None
    logp: float | None = None

    @property
    def tokens(self) -> int | None:
        """Length in tokens, the end token included; None: unknown."""
        return self.counted if self.token_ids is None else len(self.token_ids)


@dataclass(frozen=True)
class Refusal:
    """No answer, and why (a reason of dropped rows). again: asking once more may help. said: the server's own words."""

    reason: str
    again: bool = False
    said: str = ""


@dataclass(frozen=True)
class Chat:
    """A prompt for a server: messages, and further fields of the request (tools, chat_template_kwargs)."""

    messages: tuple[Mapping[str, Any], ...]
    extra: Mapping[str, Any]


Prompt = Sequence[int] | Chat


class Engine(Protocol):
    """What writes completions. `name` says who wrote them; `max_tokens` bounds prompt and completion (None: unknown)."""

    name: str
    max_tokens: int | None

    def encode(self, row: Mapping[str, Any]) -> Any:
        """The row's `prompt` (with `tools`, `chat_template_kwargs`) as the engine wants it: token ids, or a `Chat`."""
        ...

    def generate(self, prompts: Sequence[Any], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order: one batch under one seed. Global random state stays as it was."""
        ...


@runtime_checkable
class RowEngine(Protocol):
    """An engine asked row by row, many at once."""

    name: str
    max_tokens: int | None

    def generate_each(
        self,
        prompts: Sequence[Any],
        sampling: Sampling,
        seeds: Sequence[int],
        on_answer: Callable[[int, Completion | Refusal], None],
    ) -> None:
        """Ask all prompts, each under its seed; `on_answer(index, answer)` is called once for each, as answers come."""
        ...


def batch_seed(seed: int, label: str, index: int) -> int:
    """Seed (31 bits) of batch (or row) `index` of the pass `label` in a stage with `seed`."""
    return int(digest(seed, label, index)[:8], 16) & 0x7FFFFFFF


def until_stop(ids: Sequence[int], stops: frozenset[int]) -> Iterator[int]:
    """The ids up to and with the first end token."""
    for token in ids:
        yield token
        if token in stops:
            return
