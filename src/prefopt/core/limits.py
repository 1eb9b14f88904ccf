"""A limit of computing time for code that others wrote (chat templates) and that may never end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LEAST = 0.01  # seconds for which the timer is not set again


class OutOfTime(BaseException):
    """The block took more computing time than it may. No `Exception`, so that the block itself cannot swallow it."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Within: at most so many seconds of computing by this thread (not of the wall clock: a busy machine is no matter).

    It costs a few microseconds. The interpreter is interrupted between two of its instructions and within its arithmetic
    of large numbers. In other threads than the main one, and where the system has no such timer, there is no limit.

    Raises:
        OutOfTime: the time is over.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    is_over = False

    def stop(number: int, frame: Any) -> None:
        left = seconds - (time.thread_time() - start)
        if is_over:
            return
        if left > LEAST:  # the timer counts what other threads compute, too
            signal.setitimer(signal.ITIMER_VIRTUAL, left)
            return
        raise OutOfTime(f"more than {seconds:g} s")

    start = time.thread_time()
    handler = signal.signal(signal.SIGVTALRM, stop)
    outer = signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, *outer)
        signal.signal(signal.SIGVTALRM, handler)
