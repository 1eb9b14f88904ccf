"""Symbolic equality by math-verify in a worker process that can be killed.

A signal cannot stop a long computation inside one big-integer operation, and works in the main thread alone. So the
parent sends pairs of answers as JSON lines to one worker (started when first needed), waits for a limited time, and
kills and replaces it when there is no reply. The worker's memory is limited too.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from functools import lru_cache
from typing import IO, Any

from prefopt.core.errors import PrefoptError

START_TIMEOUT_S = 120.0  # importing sympy on a busy machine
MEMORY_BYTES = 4 * 2**30
CLOSE = 1e-5  # numbers further apart, as a share of the larger one, are two


class Worker:
    """One worker process; `ask` is safe to call from any thread."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.replies: queue.Queue[str] = queue.Queue()
        self.lock = threading.Lock()

    def ask(self, first: str, second: str, timeout_s: float) -> bool | None:
        """Whether the two are equal; None when the limit was hit (the worker is then replaced)."""
        with self.lock:
            process = self._started()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([first, second]) + "\n")
                process.stdin.flush()
                reply = json.loads(self.replies.get(timeout=timeout_s))
            except (queue.Empty, OSError, ValueError):  # ValueError: an empty line, the worker died
                self.close()
                return None
            return reply if isinstance(reply, bool) else None

    def _started(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.close()
        self.replies = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefopt.verify.mathcheck"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=_read, args=(self.process.stdout, self.replies), daemon=True).start()
        try:
            ready = self.replies.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            ready = ""
        if ready != "true":
            self.close()
            raise PrefoptError(
                "the worker for symbolic comparison does not start; check `python -c 'import math_verify'`"
            )
        return self.process

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


def _read(stream: IO[str], replies: queue.Queue[str]) -> None:
    """Pass lines on until the worker ends; an empty text says so."""
    try:
        for line in stream:
            replies.put(line.strip())
    except (OSError, ValueError):  # closed from the other side
        pass
    replies.put("")


_workers: dict[int, Worker] = {}  # by process id: a forked child must not share its parent's pipe
_undecided: dict[tuple[str, str], None] = {}


@lru_cache(maxsize=65536)
def equal(first: str, second: str, timeout_s: float = 5.0) -> bool | None:
    """Whether two answers are mathematically equal; None = undecided within the limits of time and memory.

    Raises:
        PrefoptError: the worker cannot be started.
    """
    pid = os.getpid()
    if pid not in _workers:
        _workers[pid] = Worker()
        atexit.register(_workers[pid].close)
    verdict = _workers[pid].ask(first, second, timeout_s)
    if verdict is None:
        _undecided[first, second] = None
    return verdict


def undecided_count() -> int:
    """How many different comparisons of this process hit a limit so far."""
    return len(_undecided)


# ---- inside the worker


@lru_cache(maxsize=4096)
def _parse(answer: str) -> tuple[Any, ...]:
    from math_verify import parse

    return tuple(parse(f"${answer}$", fallback_mode="no_fallback", parsing_timeout=None))


def _apart(a: Any, b: Any) -> bool:
    """What math-verify calls equal and is not: an equation's right side against the equation; tiny numbers.

    Only an assignment to a symbol ("y = 2x + 3") may stand for its right side.
    """
    import sympy

    if isinstance(a, sympy.Eq) != isinstance(b, sympy.Eq):
        equation = a if isinstance(a, sympy.Eq) else b
        return not (equation.lhs.is_Symbol or equation.rhs.is_Symbol)
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) and a.is_number and b.is_number:
        x, y = sympy.N(a, 20), sympy.N(b, 20)
        return bool(abs(x - y) > CLOSE * sympy.Max(abs(x), abs(y)))
    return False


def _verdict(first: str, second: str) -> bool | None:
    from math_verify import verify

    try:
        a, b = list(_parse(first)), list(_parse(second))
        if not a or not b or _apart(a[0], b[0]):
            return False
        return bool(verify(a, b, timeout_seconds=None) or verify(b, a, timeout_seconds=None))
    except (MemoryError, RecursionError):
        return None
    except Exception:  # whatever sympy makes of a model's text: not equal
        return False


def limit_memory() -> None:
    """Let this process have `MEMORY_BYTES` of address space, where the system knows such a limit."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):  # elsewhere the time limit remains
        pass


def main() -> None:
    """Answer pairs from standard input, one JSON line each, until it closes."""
    import logging

    limit_memory()
    logging.disable(logging.CRITICAL)
    _verdict("\\frac{x}{2}", "x/2")  # imports and grammars are loaded before the clock runs
    replies = sys.stdout
    sys.stdout = sys.stderr
    print("true", file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_verdict(*json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
