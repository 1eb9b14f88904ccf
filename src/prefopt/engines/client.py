"""Asking any OpenAI-compatible server: many calls at once, every fault met, every reply handed over as it arrives.

The key comes from an environment variable alone and stands in no message, log, file or repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from prefopt.config import Config

# why a reply has no text (`ChatReply.error`); stable, they serve as reasons of dropped rows
GAVE_UP = "server gave up"  # all retries used: asking again later may help
NO_ROOM = "prompt fills the model's context"  # asking again does not help
FILTERED = "refused by the server's filter"  # nor here


class ServerSettings(Config):
    """An OpenAI-compatible server and how it is asked."""

    base_url: str = Field(description="address up to and with /v1, e.g. http://127.0.0.1:8000/v1")
    model: str = Field(description="name of the model, as the server knows it")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    concurrency: int = Field(32, ge=1, le=1000, description="calls in flight at most")
    timeout_s: float = Field(120.0, gt=0, description="longest wait for one call, seconds")
    retries: int = Field(6, ge=0, description="further tries of a call that failed")
    backoff_s: float = Field(1.0, ge=0, description="mean wait before the first retry, seconds; then doubled")
    backoff_max_s: float = Field(60.0, ge=0, description="longest such wait, seconds")
    give_up_after: int = Field(
        16, ge=1, description="stop the run when this many calls in a row failed for good"
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the longest answer"
    )
    extra: dict[str, Any] = Field({}, description="further fields of every request, e.g. {min_p: 0.05}")


@dataclass(frozen=True)
class ChatRequest:
    """One call. max_tokens: longest answer; top_logprobs > 0: ask for the likeliest tokens at each position."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int = 0
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatReply:
    """What came back. error: empty, or GAVE_UP, NO_ROOM or FILTERED (then text is empty).

    latency_s (seconds) is of the call that succeeded. top_logprobs: per answer token, token -> log-prob in nats; None
    where the server gives none.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    top_logprobs: tuple[dict[str, float], ...] | None = None
    error: str = ""


class ChatClient:
    """Asks one server."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    def ask(
        self, requests: Sequence[ChatRequest], on_reply: Callable[[int, ChatReply], None] | None = None
    ) -> list[ChatReply]:
        """One reply per request, in order; `on_reply(index, reply)` is called as each arrives, errors included.

        Raises:
            PrefoptError: the server refuses the request itself (key, model, a bad field), or `give_up_after` calls in
                a row failed for good. What was answered before has been handed to `on_reply`.
        """
        raise NotImplementedError
