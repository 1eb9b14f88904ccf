"""Settings of an OpenAI-compatible server: where it is, how it is asked, and which fields it is spared."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from prefopt.core.errors import nearest
from prefopt.core.settings import Config

# they say how calls are made, not what is asked: a run continues although they were changed
HOW = (
    "api_key_env",
    "concurrency",
    "timeout_s",
    "retries",
    "backoff_s",
    "backoff_max_s",
    "give_up_after",
    "rejected_after",
)
# fields of a request that have a setting of their own
OWN = frozenset(
    [
        "model",
        "messages",
        "seed",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stream",
        "logprobs",
        "top_logprobs",
    ]
)
# fields that a server may not know or allow, so that they may be left out
OMITTABLE = (
    "temperature",
    "top_p",
    "seed",
    "logprobs",
    "max_tokens",
)


class ServerSettings(Config):
    """An OpenAI-compatible server and how it is asked."""

    base_url: str = Field(description="address up to and with /v1, e.g. http://127.0.0.1:8000/v1")
    model: str = Field(description="name of the model, as the server knows it")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    concurrency: int = Field(32, ge=1, le=1000, description="calls in flight at most")
    timeout_s: float = Field(120.0, gt=0, description="longest wait for one call, seconds")
    retries: int = Field(6, ge=0, description="further tries of a call that failed")
    backoff_s: float = Field(1.0, ge=0, description="mean wait before the first retry, seconds; then doubled")
    backoff_max_s: float = Field(60.0, ge=0, description="longest mean wait before a retry, seconds")
    give_up_after: int = Field(
        16, ge=1, description="stop the run when this many calls in a row failed for good"
    )
    rejected_after: int = Field(
        8,
        ge=1,
        description="stop the run when this many requests in a row were refused (HTTP 400 and the like)",
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the longest answer"
    )
    omit: list[str] = Field(
        [],
        description=f"fields that this server refuses, left out of every request: {', '.join(OMITTABLE)}",
    )
    extra: dict[str, Any] = Field({}, description="further fields of every request, e.g. {min_p: 0.05}")

    @model_validator(mode="after")
    def _sound(self) -> ServerSettings:
        # checked here and not field by field: a field's error line shows what was given, which may be a key
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env is the NAME of an environment variable (capitals), e.g. OPENAI_API_KEY"
            )
        if problem := _url_problem(self.base_url):
            raise ValueError(f"base_url {problem}; write it like http://127.0.0.1:8000/v1")
        for name in self.omit:
            if name not in OMITTABLE:
                raise ValueError(f"omit: unknown field {name!r}, {nearest(name, OMITTABLE)}")
        for name in self.extra:
            if name in OWN:
                raise ValueError(f"extra.{name} has a setting of its own; remove it from extra")
            if re.search(r"api_?key|authorization|secret|password", name, re.IGNORECASE):
                raise ValueError("extra holds a key; keys are read from the environment (api_key_env)")
        return self

    @model_serializer(mode="wrap")
    def _what_is_asked(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """As JSON (manifest, key of a stage) only what the answers depend on."""
        data: dict[str, Any] = write(self)
        return {name: value for name, value in data.items() if info.mode != "json" or name not in HOW}


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        return "is no http or https address"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "holds a user, a password or a query, where no key may stand (api_key_env)"
    return "goes beyond /v1" if parts.path.rstrip("/").endswith("/completions") else ""
