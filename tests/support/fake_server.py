"""A fake OpenAI-compatible chat server on loopback, and a proxy that spoils calls on their way to it.

    with FakeServer() as server:                     # answers "A: d", d a function of messages, seed and temperature
        ask(server.url)                              # e.g. http://127.0.0.1:40001/v1
        server.calls                                 # every call, in the order of arrival
    with FakeServer(answer) as server, FaultProxy(server.url, rate=0.3, seed=0) as proxy: ask(proxy.url)

`answer(body)` gets the request's JSON and gives a text or an `Answer`. As a program: `python fake_server.py LATENCY_S`
prints its url and serves until its standard input ends (for benchmarks, in a process of its own).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

FAULTS = ("429", "500", "timeout", "truncated", "cut", "garbage", "dropped", "no choices")


@dataclass(frozen=True)
class Answer:
    """What the server says. top_logprobs: per answer token, token -> log-prob (sent where the request asks for them)."""

    text: str
    finish_reason: str = "stop"
    top_logprobs: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True)
class Call:
    """One request as it came: its JSON, its Authorization header and when it came (monotonic seconds)."""

    body: dict[str, Any]
    authorization: str | None
    at: float = field(default_factory=time.monotonic)

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])


def seeded_answer(body: Mapping[str, Any]) -> str:
    """ "A: 0" ... "A: 9", a function of messages, seed and temperature."""
    asked = [body["messages"], body.get("seed"), body.get("temperature")]
    return f"A: {int(hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8], 16) % 10}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each reply waits 40 ms for an acknowledgement

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None, keep: int | None = None
    ) -> None:
        """Send `content`; with `keep`, its first bytes only, and hang up."""
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if keep is None else content[:keep])
        if keep is not None:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Running:
    """A server in a thread, as a context."""

    def __init__(self, handler: type[_Handler]) -> None:
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FakeServer(_Running):
    """Answers every call by `answer`, `latency_s` seconds later. `key`: demanded of callers. `peak`: most in flight.

    refusals: question -> (status, error body), for calls that are to be refused.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str | Answer] = seeded_answer,
        *,
        latency_s: float = 0.0,
        key: str | None = None,
        logprobs: bool = True,
        refusals: Mapping[str, tuple[int, Any]] | None = None,
    ) -> None:
        self.answer, self.latency_s, self.key, self.logprobs = answer, latency_s, key, logprobs
        self.refusals = dict(refusals or {})
        self.calls: list[Call] = []
        self.in_flight = self.peak = 0
        outer = self

        class Handler(_Handler):
            def do_POST(self) -> None:
                outer.serve(self)

        super().__init__(Handler)

    def serve(self, handler: _Handler) -> None:
        body = json.loads(handler.body())
        call = Call(body, handler.headers.get("Authorization"))
        with self.lock:
            self.calls.append(call)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        time.sleep(self.latency_s)
        status, answer = self._answer(handler.path, call)
        with self.lock:
            self.in_flight -= 1
        handler.reply(status, json.dumps(answer).encode())

    def _answer(self, path: str, call: Call) -> tuple[int, Any]:
        if path != "/v1/chat/completions":
            return 404, {"error": {"message": f"no such path: {path}", "code": "not_found"}}
        if self.key is not None and call.authorization != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {call.authorization}"
            return 401, {"error": {"message": said, "code": "invalid_api_key"}}
        if call.question in self.refusals:
            return self.refusals[call.question]
        answer = self.answer(call.body)
        if isinstance(answer, str):
            answer = Answer(answer)
        return 200, self._completion(answer, call.body)

    def _completion(self, answer: Answer, body: dict[str, Any]) -> dict[str, Any]:
        words = answer.text.split()
        content = [
            {
                "token": max(table, key=lambda token: table[token], default=""),
                "logprob": max(table.values(), default=0.0),
                "top_logprobs": [{"token": t, "logprob": v, "bytes": None} for t, v in table.items()],
            }
            for table in answer.top_logprobs
        ]
        asked = self.logprobs and bool(body.get("logprobs"))
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish_reason,
                "logprobs": {"content": content} if asked else None,
            }],
            "usage": {
                "prompt_tokens": sum(len(str(m["content"]).split()) for m in body["messages"]),
                "completion_tokens": len(words) + 1,
                "total_tokens": 0,
            },
        }  # fmt: skip


class FaultProxy(_Running):
    """Passes calls on to `upstream`, but spoils a share `rate` of them (drawn from `seed`) in one of the ways `faults`.

    429, 500, dropped and timeout never reach the upstream; truncated (connection cut within the body), cut (a body of
    right length that is half a JSON), garbage and "no choices" do, and their answer is lost. `counts`: fault (or "ok")
    -> calls. hold_s: how long a timeout holds its call.
    """

    def __init__(
        self,
        upstream: str,
        *,
        rate: float = 0.3,
        seed: int = 0,
        faults: Sequence[str] = FAULTS,
        hold_s: float = 1.0,
    ) -> None:
        self.upstream, self.rate, self.faults, self.hold_s = urlsplit(upstream), rate, faults, hold_s
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        outer = self

        class Handler(_Handler):
            def do_POST(self) -> None:
                outer.serve(self)

        super().__init__(Handler)

    def serve(self, handler: _Handler) -> None:
        body = handler.body()
        with self.lock:
            fault = self.rng.choice(self.faults) if self.rng.random() < self.rate else "ok"
            self.counts[fault] += 1
        if fault == "429":
            handler.reply(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.01"})
        elif fault == "500":
            handler.reply(500, b"<h1>Internal Server Error</h1>", {"Content-Type": "text/html"})
        elif fault in ("timeout", "dropped"):
            time.sleep(self.hold_s if fault == "timeout" else 0.0)
            handler.close_connection = True
        else:
            self._pass_on(handler, body, fault)

    def _pass_on(self, handler: _Handler, body: bytes, fault: str) -> None:
        connection = http.client.HTTPConnection(self.upstream.netloc, timeout=30)
        try:
            connection.request("POST", handler.path, body, {
                "Content-Type": "application/json",
                "Authorization": handler.headers.get("Authorization", ""),
            })  # fmt: skip
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        spoiled = {
            "cut": content[: len(content) // 2],
            "garbage": "<html>\ufffd oops, try again later </html>".encode(),
            "no choices": b'{"id": "x", "object": "chat.completion", "choices": []}',
        }.get(fault, content)
        handler.reply(response.status, spoiled, keep=len(content) // 2 if fault == "truncated" else None)


if __name__ == "__main__":
    with FakeServer(latency_s=float(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
