"""What a chat completion endpoint sent back: the reply in it, or what is wrong with it and whether to ask again."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from typing import Any

from prefopt.core.errors import PrefoptError

# why a reply has no text (`ChatReply.error`); stable, they serve as reasons of dropped rows
GAVE_UP = "server gave up"  # all retries used: asking again later may help
NO_ROOM = "prompt fills the model's context"  # asking again does not help
NO_ROOM_FOR_ANSWER = "max_new_tokens does not fit into the model's context beside the prompt; lower it"
FILTERED = "refused by the server's filter"  # nor here
REJECTED = "refused by the server"  # this one request, which others like it are not
PER_PROMPT = frozenset({400, 413, 422, 451})  # statuses that may mean one prompt alone
MOST_TOKENS = 2**31 - 1  # no reply has more: a count beyond is an error of the server's
RETRIED = frozenset({408, 409, 425, 429})  # and all 5xx
RETRY_AFTER_MAX_S = 600.0
# how servers say that a prompt is too long (OpenAI and vLLM; llama.cpp; SGLang; TGI)
TOO_LONG = (
    "context_length_exceeded",
    "maximum context length",
    "exceed_context_size",
    "exceeds the available context size",
    "longer than the model's context length",
    "must be less than the model's context",
    "prompt is too long",
)
LENGTHS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
# how they say how long the context is, and how much of it the prompt takes
_CONTEXT = re.compile(r"(?:context (?:length|size|window)|maximum)[^0-9]{0,40}([0-9]{1,9}) tokens?")
_PROMPT = re.compile(
    r"(?:has|have|with|contains?) ([0-9]{1,9}) (?:input|prompt) tokens|([0-9]{1,9}) (?:tokens )?(?:in the messages|in the prompt|from the input)"
)
# a field of `server.omit` -> how requests and servers' words spell it
FIELDS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "seed": ("seed",),
    "logprobs": ("logprobs", "top_logprobs"),
}
SHOWN = 200  # characters of a server's own message in an error line
ECHO = 16  # as many characters of a prompt in it, and it is not shown


@dataclass(frozen=True)
class ChatReply:
    """What came back. error: empty, or GAVE_UP, NO_ROOM, FILTERED or REJECTED (then text is empty).

    latency_s (seconds) is of the call that succeeded. top_logprobs: per answer token, token -> log-prob in nats; None
    where the server gives none. said: of a rejected request, the server's words.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    top_logprobs: tuple[dict[str, float], ...] | None = None
    error: str = ""
    said: str = ""


class AllRejected(PrefoptError):
    """No request was answered and some were refused, each for itself; replies: those, by their place.

    The settings may be wrong, or these very prompts: who has had answers to others knows which.
    """

    def __init__(self, message: str, replies: Mapping[int, ChatReply]) -> None:
        super().__init__(message)
        self.replies = dict(replies)


class Fault(Exception):
    """A call that may be tried again. `after_s`: the server's own wish for the wait, seconds."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


def read_reply(content: bytes) -> ChatReply:
    """The first choice of a chat completion's JSON.

    Raises:
        Fault: no JSON, cut off, or without a choice that holds a message.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise Fault("a reply that is no JSON") from None
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Fault("a reply without an answer in it")
    reason = choice.get("finish_reason") or "stop"
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return ChatReply(
        text="" if reason == "content_filter" else _text(message.get("content")),
        finish_reason=str(reason),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        top_logprobs=_logprobs(choice.get("logprobs")),
        error=FILTERED if reason == "content_filter" else "",
    )


def kept_reply(found: Any) -> ChatReply | None:
    """A reply as a journal keeps it (`dataclasses.asdict`); None where that is none."""
    if not isinstance(found, dict) or not found.keys() <= {part.name for part in fields(ChatReply)}:
        return None
    texts = [
        found.get("text"),
        found.get("finish_reason", "stop"),
        found.get("error", ""),
        found.get("said", ""),
    ]
    numbers = [found.get("prompt_tokens"), found.get("completion_tokens")]
    latency, tops = found.get("latency_s", 0.0), found.get("top_logprobs")
    sound = (
        all(isinstance(text, str) for text in texts)
        and all(number is None or _count(number) is not None for number in numbers)
        and isinstance(latency, int | float)
        and (tops is None or (isinstance(tops, list) and all(map(_is_table, tops))))
    )
    return ChatReply(**{**found, "top_logprobs": None if tops is None else tuple(tops)}) if sound else None


def _is_table(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())


def _text(content: Any) -> str:
    """A message's text; null (nothing said, as by a reasoning model that was cut) is empty."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise Fault("a reply whose text is no text")
    # half a surrogate pair cannot be stored as UTF-8
    return (content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    """A number of tokens, where it can be one."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= MOST_TOKENS else None


def _logprobs(found: Any) -> tuple[dict[str, float], ...] | None:
    """Per position token -> log-prob; where a token stands twice (as bytes that are no text do), the likelier counts."""
    positions = found.get("content") if isinstance(found, dict) else None
    if not isinstance(positions, list) or not positions:
        return None
    table = []
    for position in positions:
        listed = position.get("top_logprobs") if isinstance(position, dict) else None
        tokens: dict[str, float] = {}
        for entry in listed if isinstance(listed, list) else []:
            token, value = (
                (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
            )
            if isinstance(token, str) and isinstance(value, int | float) and not math.isnan(value):
                tokens[token] = max(float(value), tokens.get(token, -math.inf))
        table.append(tokens)
    return tuple(table)


# ---- refusals


def read_refusal(status: int, headers: Mapping[str, str], body: Any) -> ChatReply | None:
    """What an HTTP error means for this one call: a reply with its `error`, or None where the request is wrong itself.

    Raises:
        Fault: worth trying again.
    """
    code, message = _error_of(body)
    if (status in RETRIED or status >= 500) and code != "insufficient_quota":
        raise Fault(f"HTTP {status}", retry_after(headers))
    if status in (400, 413, 422):
        text = f"{code} {message}".lower()
        if any(sign in text for sign in TOO_LONG) and _is_for_answer(text, body):
            return ChatReply("", finish_reason="length", error=NO_ROOM_FOR_ANSWER)
        if any(sign in text for sign in TOO_LONG):
            return ChatReply("", finish_reason="length", error=NO_ROOM)
        if code == "content_filter":
            return ChatReply("", finish_reason="content_filter", error=FILTERED)
    return None


def _is_for_answer(text: str, body: Any) -> bool:
    """Whether the wish for the answer is what is too long: the prompt alone would fit."""
    inner = body.get("error", body) if isinstance(body, dict) else {}
    if isinstance(inner, dict) and inner.get("param") in LENGTHS:
        return True
    room, prompt = _CONTEXT.search(text), _PROMPT.search(text)
    if room and prompt:
        return int(prompt[1] or prompt[2]) < int(room[1])
    return any(name in text for name in LENGTHS) and "too large" in text


def refused_field(body: Any, sent: Mapping[str, Any]) -> str | None:
    """The field of a request (`server.omit` knows it) that an error body is about; None where it names none that was sent."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    param = inner.get("param") if isinstance(inner, dict) else None
    _, message = _error_of(body)
    for field, spellings in FIELDS.items():
        if not any(name in sent for name in spellings):
            continue
        if param in spellings or any(
            re.search(rf"(?<![a-z_]){name}(?![a-z_])", message.lower()) for name in spellings
        ):
            return field
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait (`retry-after-ms`, `retry-after` in seconds or as a date), at most ten minutes."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            wait = float(value) * unit
        except ValueError:
            try:
                wait = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if wait >= 0:  # also false for NaN
            return min(wait, RETRY_AFTER_MAX_S)
    return None


def shown_message(body: Any, contents: Sequence[str], key: str) -> str:
    """The server's own words on a refusal in one line, without the key; empty where they repeat a prompt."""
    _, message = _error_of(body)
    line = " ".join(message.replace(key, "***").split() if key else message.split())[:SHOWN]
    for content in contents:
        flat = " ".join(content.split())
        size = min(ECHO, len(flat))
        if size and any(line[i : i + size] in flat for i in range(len(line) - size + 1)):
            return ""
    return line


def _error_of(body: Any) -> tuple[str, str]:
    """Code and message of an error body: {"error": {"code", "message"}}, the inner part alone, or {"detail": ...}."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return "", inner if isinstance(inner, str) else ""
    message = inner.get("message") or inner.get("detail") or ""
    return str(inner.get("code") or inner.get("type") or ""), message if isinstance(message, str) else ""
