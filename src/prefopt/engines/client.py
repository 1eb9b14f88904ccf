"""Asking any OpenAI-compatible server: many calls at once, every fault met, every reply handed over as it arrives.

The key comes from an environment variable alone and stands in no message, log, file or repr.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.engines.replies import (
    FILTERED,
    GAVE_UP,
    NO_ROOM,
    PER_PROMPT,
    REJECTED,
    AllRejected,
    ChatReply,
    Fault,
    read_refusal,
    read_reply,
    refused_field,
    shown_message,
)
from prefopt.engines.server_settings import ServerSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = [
    "FILTERED",
    "GAVE_UP",
    "NO_ROOM",
    "REJECTED",
    "AllRejected",
    "ChatClient",
    "ChatReply",
    "ChatRequest",
]

OnReply = Callable[[int, ChatReply], None]
AT_DEFAULT = {"temperature": 1.0, "top_p": 1.0}  # what the interface takes where nothing is sent
NO_KEY = "EMPTY"  # what servers without keys are sent


@dataclass(frozen=True)
class ChatRequest:
    """One call. max_tokens: longest answer; top_logprobs > 0: ask for the likeliest tokens at each position.

    extra: further fields of this request's body (over the settings' own).
    """

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_logprobs: int = 0
    extra: Mapping[str, Any] | None = None


class ChatClient:
    """Asks one server. Needs the package `openai` when it asks."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._jitter = random.Random()  # of its own: the global random state stays as it is

    def ask(self, requests: Sequence[ChatRequest], on_reply: OnReply | None = None) -> list[ChatReply]:
        """One reply per request, in order; `on_reply(index, reply)` is called as each arrives, errors included.

        Every call is tried 1 + `retries` times on 408, 409, 425, 429, 5xx, timeouts, lost connections and replies that
        cannot be read. A call that failed for good has GAVE_UP as its `error`; NO_ROOM and FILTERED are not retried.

        Raises:
            PrefoptError: the server refuses the request itself (key, model, a bad field), or `give_up_after` calls in
                a row failed for good. What was answered before has been handed to `on_reply`.
        """
        if not requests:
            return []
        return _run(_Asking(self.settings, _key(self.settings), self._jitter, requests, on_reply).all())


def _run(work: Coroutine[Any, Any, list[ChatReply]]) -> list[ChatReply]:
    """Run to the end, also where an event loop runs already (a notebook): then in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _key(settings: ServerSettings) -> str:
    """The key of the environment; empty where there is none."""
    key = os.environ.get(settings.api_key_env, "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        raise PrefoptError(
            f"environment variable {settings.api_key_env} holds characters that no key has; set it anew"
        )
    return key


class _Asking:
    """One `ask`: the requests, what came back so far, and the calls given up in a row.

    A refused request may be its prompt's fault or that of the settings. It counts as the prompt's, and is handed over, as
    soon as another one has been answered.
    """

    def __init__(
        self,
        settings: ServerSettings,
        key: str,
        jitter: random.Random,
        requests: Sequence[ChatRequest],
        on_reply: OnReply | None,
    ) -> None:
        self.settings, self.requests, self.on_reply = settings, requests, on_reply
        self.key, self.jitter = key, jitter
        self.replies: dict[int, ChatReply] = {}
        self.failed_in_a_row = 0
        self.rejected: dict[int, ChatReply] = {}  # in a row, not yet handed over
        self.rejected_in_a_row = 0
        self.refusal = ""  # the line for the last one
        self.has_answered = False

    async def all(self) -> list[ChatReply]:
        """As many workers as calls may be in flight, each with its next request."""
        from openai import AsyncOpenAI

        todo = iter(range(len(self.requests)))
        workers = min(self.settings.concurrency, len(self.requests))
        client = AsyncOpenAI(
            api_key=self.key or NO_KEY,
            base_url=self.settings.base_url,
            timeout=self.settings.timeout_s,
            max_retries=0,
        )
        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(self._work(client, todo))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        if self.rejected and not self.has_answered:
            raise AllRejected(self.refusal, self.rejected)
        self._hand_over_rejected()
        return [self.replies[index] for index in range(len(self.requests))]

    def _hand_over(self, index: int, reply: ChatReply) -> None:
        self.replies[index] = reply
        if self.on_reply is not None:
            self.on_reply(index, reply)

    def _hand_over_rejected(self) -> None:
        for index, reply in self.rejected.items():
            self._hand_over(index, reply)
        self.rejected = {}

    def _reject(self, index: int, reply: ChatReply) -> None:
        self.rejected[index] = reply
        self.rejected_in_a_row += 1
        if self.rejected_in_a_row >= self.settings.rejected_after:
            raise PrefoptError(f"{self.refusal} ({self.rejected_in_a_row} requests in a row)")

    async def _work(self, client: AsyncOpenAI, todo: Iterator[int]) -> None:
        for index in todo:
            reply, fault = await self._one(client, self.requests[index])
            if reply.error == REJECTED:
                self._reject(index, reply)
                continue
            if not reply.error:
                self.has_answered, self.rejected_in_a_row = True, 0
                self._hand_over_rejected()
            self._hand_over(index, reply)
            self.failed_in_a_row = self.failed_in_a_row + 1 if reply.error == GAVE_UP else 0
            if self.failed_in_a_row >= self.settings.give_up_after:
                raise PrefoptError(
                    f"{self.settings.base_url}: {self.failed_in_a_row} calls in a row failed, each tried "
                    f"{self.settings.retries + 1} times (the last: {fault}); start again when the server answers"
                )

    async def _one(self, client: AsyncOpenAI, request: ChatRequest) -> tuple[ChatReply, str]:
        """The reply to one request, and the last fault if it was given up."""
        fault = ""
        for attempt in range(self.settings.retries + 1):
            start = time.perf_counter()
            try:
                reply = await self._try(client, request)
                return replace(reply, latency_s=time.perf_counter() - start), ""
            except Fault as error:
                fault, after = str(error), error.after_s
            if attempt < self.settings.retries:
                await asyncio.sleep(self._wait(attempt, after))
        return ChatReply("", finish_reason="error", error=GAVE_UP), fault

    def _wait(self, attempt: int, after_s: float | None) -> float:
        """Seconds to wait: the server's wish and a little more, or an exponential backoff, half to one and a half times."""
        if after_s is not None:
            return after_s + self.jitter.random() * self.settings.backoff_s
        mean = min(self.settings.backoff_s * 2.0 ** min(attempt, 60), self.settings.backoff_max_s)
        return mean * self.jitter.uniform(0.5, 1.5)

    async def _try(self, client: AsyncOpenAI, request: ChatRequest) -> ChatReply:
        """One call.

        Raises:
            Fault: worth another try.
            PrefoptError: the server refuses the request itself.
        """
        import openai

        try:
            # the client's own timeout is per read: a server that drips would hold the call for ever
            async with asyncio.timeout(self.settings.timeout_s):
                raw = await client.chat.completions.with_raw_response.create(
                    **request_body(request, self.settings)
                )
            return read_reply(raw.content)
        except (TimeoutError, openai.APITimeoutError):
            raise Fault(f"no reply within {self.settings.timeout_s:g} s") from None
        except openai.APIConnectionError:
            raise Fault("no connection, or it was lost") from None
        except openai.APIStatusError as error:
            reply = read_refusal(error.status_code, error.response.headers, error.body)
            if reply is not None:
                return reply
            self.refusal = self._refused(error.status_code, error.body, request)
            if error.status_code in PER_PROMPT:
                said = shown_message(error.body, contents_of(request), self.key)
                return ChatReply("", finish_reason="error", error=REJECTED, said=said)
            raise PrefoptError(self.refusal) from None
        except openai.OpenAIError as error:
            raise Fault(f"{type(error).__name__} of the client") from None

    def _refused(self, status: int, body: Any, request: ChatRequest) -> str:
        settings = self.settings
        where = f"{settings.base_url}: refused (HTTP {status})"
        field = refused_field(body, request_body(request, settings))
        if field and status != 401:
            words = shown_message(body, contents_of(request), self.key)
            return f"{where}{f': {words}' if words else ''}; this server takes no {field} so: leave it out with server.omit: [{field}]"
        words = shown_message(body, contents_of(request), self.key)
        said = f": {words}" if words else ""
        if status in (401, 403):
            state = "the key in" if self.key else "set"
            why = (
                f", unless the server's own words say another reason{said}" if said and status == 403 else ""
            )
            return f"{where}; check {state} the environment variable {settings.api_key_env}{why}"
        if status == 404:
            return f"{where}{said}; check server.base_url (up to and with /v1) and server.model {settings.model!r}"
        return f"{where}{said}; check the server's settings (server.extra, server.length_field, lengths)"


def contents_of(request: ChatRequest) -> list[str]:
    """The texts of its messages."""
    return [str(message.get("content") or "") for message in request.messages]


def request_body(request: ChatRequest, settings: ServerSettings) -> dict[str, Any]:
    """Arguments of `chat.completions.create`; fields that are not OpenAI's own go by `extra_body`.

    A temperature or top_p of 1, the interface's defaults, is not sent, nor what `settings.omit` names.
    """
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [dict(message) for message in request.messages],
    }
    wanted: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    body |= {
        name: value
        for name, value in wanted.items()
        if value is not None and name not in settings.omit and AT_DEFAULT.get(name) != value
    }
    if "max_tokens" not in settings.omit:
        body[settings.length_field] = request.max_tokens
    if request.top_logprobs and "logprobs" not in settings.omit:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    extra = {**settings.extra, **(request.extra or {})}
    return {**body, "extra_body": extra} if extra else body
