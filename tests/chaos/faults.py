"""A chat server on loopback that answers rightly or in one of many wrong ways, written on bare sockets."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Self

RETRIED, TAKEN, REFUSED, EITHER = "retried", "taken", "refused", "either"


def completion(body: dict[str, Any], **change: Any) -> dict[str, Any]:
    """A right reply. change: content, finish_reason, usage, message, choice, whole (parts of it put in place)."""
    asked = [body["messages"], body.get("seed"), body.get("temperature")]
    text = f"A: {int(hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8], 16) % 10}"
    message = {"role": "assistant", "content": change.get("content", text), **change.get("message", {})}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": change.get("finish_reason", "stop"),
        **change.get("choice", {}),
    }
    usage = change.get("usage", {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})
    whole = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }
    return {**whole, **change.get("whole", {})}


def http(
    status: int, content: bytes, headers: dict[str, str] | None = None, length: int | None = None
) -> bytes:
    """The bytes of a response. length: what it says of itself, where that is a lie."""
    lines = {
        "Content-Type": "application/json",
        "Content-Length": str(len(content) if length is None else length),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode("utf-8", "surrogateescape") + content


def sent(**change: Any) -> Callable[[dict[str, Any]], bytes]:
    """A reply of status 200 that is changed somewhere."""
    return lambda body: http(200, json.dumps(completion(body, **change)).encode())


def status(
    number: int, said: Any = None, headers: dict[str, str] | None = None
) -> Callable[[dict[str, Any]], bytes]:
    """An error reply."""
    said = {"error": {"message": "no", "code": "no"}} if said is None else said
    return lambda body: http(number, json.dumps(said).encode(), headers)


def raw(content: bytes, **more: Any) -> Callable[[dict[str, Any]], bytes]:
    """A reply of status 200 with any content."""
    return lambda body: http(200, content, **more)


def tokens(value: Any) -> Callable[[dict[str, Any]], bytes]:
    return sent(usage={"prompt_tokens": value, "completion_tokens": value, "total_tokens": value})


def _packed_wrongly(body: dict[str, Any]) -> bytes:
    return http(200, b"no gzip at all", {"Content-Encoding": "gzip"})


def _bomb(body: dict[str, Any]) -> bytes:
    return http(200, gzip.compress(b" " * 30_000_000), {"Content-Encoding": "gzip"})


def _chunks_cut(body: dict[str, Any]) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{"


def _stream(body: dict[str, Any]) -> bytes:
    return http(
        200,
        b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n',
        {"Content-Type": "text/event-stream"},
    )


def _named_number(body: dict[str, Any]) -> bytes:
    text = json.dumps(completion(body)).replace('"completion_tokens": 3', '"completion_tokens": 1e999')
    return http(200, text.encode())


# name -> (what is sent, how it should be met). `retried`: as if it had not been; `taken`: it is an answer; `refused`: the
# row is counted, or one line; `either`: retried or taken
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], bytes], str]] = {
    "429": (status(429), RETRIED), "429 wait a little": (status(429, headers={"Retry-After": "0.01"}), RETRIED),
    "429 wait for ever": (status(429, headers={"Retry-After": "-1"}), RETRIED), "429 wait nan": (status(429, headers={"Retry-After": "nan"}), RETRIED),
    "429 wait words": (status(429, headers={"Retry-After": "\x1b[31msoon"}), RETRIED), "408": (status(408), RETRIED), "409": (status(409), RETRIED),
    "500": (status(500), RETRIED), "500 HTML": (lambda body: http(500, b"<h1>oops</h1>", {"Content-Type": "text/html"}), RETRIED),
    "502 empty": (lambda body: http(502, b""), RETRIED), "503": (status(503), RETRIED), "504": (status(504), RETRIED), "529": (status(529), RETRIED),
    "no quota": (status(429, {"error": {"message": "pay", "code": "insufficient_quota"}}), REFUSED), "400": (status(400), REFUSED),
    "400 escape": (status(400, {"error": {"message": "\x1b[31mred\x1b]0;x\x07 \u202e"}}), REFUSED), "400 list": (status(400, [1, [2]]), REFUSED),
    "400 long": (status(400, {"error": {"message": "x" * 100_000}}), REFUSED), "401": (status(401), REFUSED), "403": (status(403), REFUSED),
    "404": (status(404), REFUSED), "413": (status(413), REFUSED), "422 detail": (status(422, {"detail": [{"msg": "no"}]}), REFUSED), "451":
    (status(451), REFUSED), "too long": (status(400, {"error": {"message": "maximum context length is 4"}}), REFUSED), "filter":
    (status(400, {"error": {"code": "content_filter"}}), REFUSED), "filter in reply": (sent(finish_reason="content_filter"), REFUSED),
    "204": (lambda body: http(204, b""), RETRIED), "301 to itself": (status(301, headers={"Location": "/v1/chat/completions"}), REFUSED), "302 away":
    (status(302, headers={"Location": "http://127.0.0.1:1/"}), EITHER), "garbage": (raw(b"\xff\xfe<html>"), RETRIED), "empty": (raw(b""), RETRIED),
    "null": (raw(b"null"), RETRIED), "a list": (raw(b"[]"), RETRIED), "a text": (raw(b'"ok"'), RETRIED), "deep": (raw(b"[" * 100_000), RETRIED),
    "NULs": (raw(b"\0" * 99), RETRIED), "half": (lambda body: http(200, json.dumps(completion(body)).encode()[:40]), RETRIED), "cut":
    (lambda body: http(200, json.dumps(completion(body)).encode()[:40], length=5000), RETRIED), "length of words":
    (raw(b"{}", headers={"Content-Length": "many"}), RETRIED), "chunks cut": (_chunks_cut, RETRIED), "gzip that is none": (_packed_wrongly, RETRIED),
    "gzip bomb": (_bomb, RETRIED), "a stream": (_stream, RETRIED), "no HTTP": (lambda body: b"hello\r\n\r\n", RETRIED), "nothing": (lambda body: b"", RETRIED),
    "reset": (lambda body: b"RESET", RETRIED), "timeout": (lambda body: b"WAIT", RETRIED), "drips": (lambda body: b"DRIP", RETRIED),
    "long header": (lambda body: http(200, b"{}", {"X": "x" * 200_000}), RETRIED), "no choices": (sent(whole={"choices": []}), RETRIED),
    "choices null": (sent(whole={"choices": None}), RETRIED), "choice null": (sent(whole={"choices": [None]}), RETRIED), "no message":
    (sent(choice={"message": None}), RETRIED), "error in 200": (raw(b'{"error": {"message": "busy"}}'), RETRIED), "content of number":
    (sent(content=3), RETRIED), "content of object": (sent(content={"a": 1}), RETRIED), "content null": (sent(content=None), TAKEN), "content empty":
    (sent(content=""), TAKEN), "content of parts": (sent(content=[{"type": "text", "text": "A"}, None, 3]), TAKEN), "NUL in content":
    (sent(content="a\0b"), TAKEN), "escape in content": (sent(content="\x1b[2J\x1b]0;x\x07"), TAKEN), "half a pair": (sent(content="\ud800"), TAKEN),
    "long content": (sent(content="x" * 3_000_000), TAKEN), "reason null": (sent(finish_reason=None), TAKEN), "reason of number":
    (sent(finish_reason=3), TAKEN), "reason of list": (sent(finish_reason=[1]), TAKEN), "reason long": (sent(finish_reason="x" * 9999), TAKEN),
    "tokens huge": (tokens(10**30), TAKEN), "tokens beyond int64": (tokens(2**63), TAKEN), "tokens negative": (tokens(-5), TAKEN), "tokens half":
    (tokens(2.5), TAKEN), "tokens of text": (tokens("many"), TAKEN), "tokens true": (tokens(True), TAKEN), "tokens of list": (tokens([1]), TAKEN),
    "tokens infinite": (_named_number, TAKEN), "usage null": (sent(usage=None), TAKEN), "usage of text": (sent(usage="x"), TAKEN), "model of number":
    (sent(whole={"model": 3}), TAKEN), "id of an escape": (sent(whole={"id": "\x1b[31m"}), TAKEN), "tool calls": (sent(message={"tool_calls": [1]}), TAKEN),
    "logprobs odd": (sent(choice={"logprobs": {"content": [{"top_logprobs": "x"}]}}), TAKEN), "another role": (sent(message={"role": "user"}), TAKEN),
}  # fmt: skip


class FaultyServer:
    """Context. fault: name of what is wrong, or None. always: every call is spoiled, else only the first of each request.

    only: words of the one prompt whose calls are spoiled. calls: how many were answered rightly.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.always = False
        self.only: str | None = None
        self.calls = 0
        self.seen: set[str] = set()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._socket.close()

    def _accept(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, KeyError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            file = connection.makefile("rb")
            while line := file.readline():
                length = 0
                while (header := file.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                content = file.read(length)
                if not line.startswith(b"POST"):
                    connection.sendall(http(404, b"{}"))
                    continue
                if not self._answer(connection, json.loads(content)):
                    return

    def _answer(self, connection: socket.socket, body: dict[str, Any]) -> bool:
        """Answer one call; whether the connection goes on."""
        asked = json.dumps([body["messages"], body.get("seed")])
        with self._lock:
            spoiled = (
                self.fault is not None
                and (self.always or asked not in self.seen)
                and (self.only or "") in asked
            )
            self.seen.add(asked)
            self.calls += not spoiled
        if not spoiled:
            connection.sendall(http(200, json.dumps(completion(body)).encode()))
            return True
        assert self.fault is not None
        content = FAULTS[self.fault][0](body)
        if content == b"RESET":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if content in (b"WAIT", b"DRIP"):
            for _ in range(40):
                connection.sendall(b"H" if content == b"DRIP" else b"")
                time.sleep(0.1)
            return False
        connection.sendall(content)
        return False
