"""Completions of any OpenAI-compatible server, by its chat endpoint: prompts go as messages, the server has the template.

A text prompt is sent as one user message. `top_k`, `tools` and `chat_template_kwargs` are sent as the fields that vLLM,
SGLang, llama.cpp and `transformers serve` know; hosted services refuse what they do not know, with a line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai  # noqa: F401 (its absence is to be told when the engine is opened, not at the first call)

from prefopt.core.errors import PrefoptError
from prefopt.engines import Chat, Completion, Dtype, EngineOptions, FinishReason, Refusal, Sampling
from prefopt.engines.client import GAVE_UP, ChatClient, ChatReply, ChatRequest
from prefopt.engines.server_settings import ServerSettings


class ServerEngine:
    """`Engine` and `RowEngine` on one server; `name` is the model's name there."""

    max_tokens: int | None = None  # only the server knows: what is too long comes back as a refusal

    def __init__(self, settings: ServerSettings) -> None:
        self.client = ChatClient(settings)
        self.name = settings.model

    def encode(self, row: Mapping[str, Any]) -> Chat:
        """The row's prompt as messages, with its tools and template options."""
        prompt = row["prompt"]
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        extra = {name: row[name] for name in ("tools", "chat_template_kwargs") if row.get(name)}
        return Chat(messages, extra)

    def generate(self, prompts: Sequence[Chat], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt; call i has the seed `seed + i` (31 bits).

        Raises:
            PrefoptError: a prompt has no answer.
        """
        answers: dict[int, Completion | Refusal] = {}
        seeds = [(seed + i) & 0x7FFFFFFF for i in range(len(prompts))]
        self.generate_each(prompts, sampling, seeds, answers.__setitem__)
        completions = []
        for index in range(len(prompts)):
            answer = answers[index]
            if isinstance(answer, Refusal):
                raise PrefoptError(f"{self.client.settings.base_url}: prompt {index}: {answer.reason}")
            completions.append(answer)
        return completions

    def generate_each(
        self,
        prompts: Sequence[Chat],
        sampling: Sampling,
        seeds: Sequence[int],
        on_answer: Callable[[int, Completion | Refusal], None],
    ) -> None:
        """Ask all prompts, as many at once as the settings allow.

        Raises:
            PrefoptError: the server refuses the settings, or does not answer any more (see `ChatClient.ask`).
        """
        requests = [_request(*asked, sampling) for asked in zip(prompts, seeds, strict=True)]
        self.client.ask(requests, lambda index, reply: on_answer(index, _answer(reply)))


def open_engine(model: Path | None, dtype: Dtype, options: EngineOptions = EngineOptions()) -> ServerEngine:
    """The engine on `options.server`; a model directory and a dtype mean nothing to it.

    Raises:
        PrefoptError: no server given.
    """
    if options.server is None:
        raise PrefoptError(
            "engine 'server' needs an address and a model; give server.base_url (http://HOST:PORT/v1) and server.model"
        )
    return ServerEngine(options.server)


def _request(prompt: Chat, seed: int, sampling: Sampling) -> ChatRequest:
    extra = {**prompt.extra, **({"top_k": sampling.top_k} if sampling.top_k else {})}
    return ChatRequest(
        prompt.messages, sampling.max_new_tokens, sampling.temperature, sampling.top_p, seed, extra=extra
    )


def _answer(reply: ChatReply) -> Completion | Refusal:
    if reply.error:
        return Refusal(reply.error, again=reply.error == GAVE_UP, said=reply.said)
    end: FinishReason = "length" if reply.finish_reason == "length" else "stop"
    return Completion(reply.text, None, end, counted=reply.completion_tokens)
