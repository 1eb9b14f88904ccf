"""A worker process that is asked by JSON lines and can be killed.

A signal cannot stop a long computation inside one big-integer operation, and works in the main thread alone. So the
parent sends JSON lines to one worker (started when first needed), waits for a limited time, and kills and replaces it
when there is no reply.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

START_TIMEOUT_S = 120.0  # importing sympy, or whatever a check of the user's imports, on a busy machine


class OverTime(Exception):
    """No reply within the limit; the worker was killed."""


class Died(Exception):
    """The worker ended by itself; the text says how."""


class NotStarted(Died):
    """It ended before it was ready."""


class Worker:
    """One worker process, `python -m` with `arguments`; `ask` is safe to call from any thread.

    The first line that it writes is `true`, or says why it is not ready (then `ready` holds it). heard: given each line of
    its standard error.
    """

    def __init__(self, arguments: Sequence[str], heard: Callable[[str], None] | None = None) -> None:
        self.arguments = list(arguments)
        self.heard = heard
        self.process: subprocess.Popen[str] | None = None
        self.replies: queue.Queue[str] = queue.Queue()
        self.lock = threading.Lock()
        self.ready: Any = None

    def ask(self, message: Any, timeout_s: float) -> Any:
        """The reply to a message, both plain data. The worker is started where there is none.

        Raises:
            OverTime: no reply within `timeout_s`.
            Died: the worker ended (`NotStarted`: at its start), or wrote no JSON.
        """
        with self.lock:
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
                reply = self.replies.get(timeout=timeout_s)
            except queue.Empty:
                self.close()
                raise OverTime(f"no reply within {timeout_s:g} s") from None
            except OSError:
                reply = ""
            try:
                return json.loads(reply)
            except ValueError:  # an empty line: the worker died
                raise Died(self._end()) from None

    def _started(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.close()
        self.replies = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self.heard else subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={"PYTHONHASHSEED": "0", **os.environ},  # a check that walks through a set says the same twice
        )
        threading.Thread(target=_read, args=(self.process.stdout, self.replies.put), daemon=True).start()
        if self.heard:
            threading.Thread(target=_hear, args=(self.process.stderr, self.heard), daemon=True).start()
        try:
            self.ready = json.loads(self.replies.get(timeout=START_TIMEOUT_S))
        except (queue.Empty, ValueError):
            self.ready = None
            raise NotStarted(self._end()) from None
        if self.ready is not True:
            self.close()
            raise NotStarted("it is not ready")
        return self.process

    def _end(self) -> str:
        """How the process ended; it is closed."""
        code = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=1)
        self.close()
        if code is None:
            return "no reply"
        return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """End the worker, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass


def _read(stream: IO[str], put: Callable[[str], None]) -> None:
    """Pass lines on until the worker ends; an empty text says so."""
    try:
        for line in stream:
            put(line.strip())
    except (OSError, ValueError):  # closed from the other side
        pass
    put("")


def _hear(stream: IO[str], heard: Callable[[str], None]) -> None:
    try:
        with stream:
            for line in stream:
                if line.strip():
                    heard(line.rstrip())
    except (OSError, ValueError):
        pass
