"""Several processes of one command (torchrun): who is first, who does what, and where they wait for each other.

They speak through the launcher's key-value store, not through a process group: that is training's own, and its kind hangs on
the device. Every process walks the same way through a command, so the n-th meeting of one is the n-th of all.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from prefopt.core.errors import PrefoptError

T = TypeVar("T")
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun and accelerate
SILENT_S = 300.0  # without a sign of life of a process the others end
BEAT_S = 5.0
POLL_S = (0.01, 0.25)  # the first look, and the most between two
PRINT_S = 10.0  # for the first process to say what went wrong


class Ended(PrefoptError):
    """Another process has ended with an error, or says nothing any longer."""


def world() -> int:
    """How many processes there are."""
    return max(int(os.environ["WORLD_SIZE"]), 1) if all(os.environ.get(name) for name in NAMES) else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if world() > 1 else 0


# ---- what is shared out

_shared = False
_is_told_at_end = False


@contextmanager
def sharing(is_shared: bool) -> Iterator[None]:
    """Within the block parts are shared out over the processes (or, in one of them, each does all)."""
    global _shared
    before, _shared = _shared, is_shared and world() > 1
    try:
        yield
    finally:
        _shared = before


def shares() -> bool:
    """Whether parts are shared out now."""
    return _shared


def is_mine(index: int) -> bool:
    """Whether the part of this number belongs to this process."""
    return not _shared or index % world() == rank()


# ---- meetings


def meet() -> None:
    """Wait until every process is here.

    Raises:
        Ended: one of them will not come.
    """
    if world() > 1:
        _line().meet()


def by_first(work: Callable[[], T]) -> T:
    """What `work` gives (plain values) in the first process, in all of them; the others wait for it.

    Raises:
        Ended: in the others, when it raises in the first.
    """
    if world() == 1:
        return work()
    with telling():
        return _line().by_first(work)


@contextmanager
def telling() -> Iterator[None]:
    """Whatever the block raises is told to the other processes, so that they end too."""
    try:
        yield
    except BaseException as error:
        if not _is_told_at_end:
            fail(error, str(error) if isinstance(error, PrefoptError) else f"{type(error).__name__}: {error}")
        raise


def tell_at_end() -> None:
    """Errors are told, by `fail`, by whoever called this, which has a line for them: the command line."""
    global _is_told_at_end
    _is_told_at_end = True


def fail(error: BaseException, text: str) -> None:
    """Tell the others that this process ends, and why."""
    if world() > 1 and not isinstance(error, Ended):
        _line().fail(text)


def speaks() -> bool:
    """Whether this process is to print the error that it ends with: the first, or one that the first has not heard of."""
    return world() == 1 or rank() == 0 or not _line().first_has_spoken()


def has_spoken() -> None:
    """To be called by the first process when it has printed its error."""
    if world() > 1 and rank() == 0:
        _line().store.set("spoken", "1")


def leave() -> None:
    """The end of a command that has done its work: the first process keeps the store, so it waits for the others."""
    if _known:
        _known[0].meet()


@atexit.register
def close() -> None:
    """Give no more signs of life."""
    while _known:
        _known.pop().close()


_known: list[_Line] = []


def _line() -> _Line:
    if not _known:
        _known.append(_Line())
    return _known[0]


class _Line:
    """The store, how often this process has met the others, and a thread that gives signs of life."""

    def __init__(self) -> None:
        self.count = 0
        self.store = _open()
        self.beats = {each: ("", time.monotonic()) for each in range(world()) if each != rank()}
        self.is_over = threading.Event()
        self.heart = threading.Thread(target=_beat, args=(self.is_over,), daemon=True)
        self.heart.start()

    def close(self) -> None:
        self.is_over.set()
        self.heart.join(BEAT_S)

    def meet(self) -> None:
        self.count += 1
        if self.store.add(f"here/{self.count}", 1) == world():
            self.store.set(f"all/{self.count}", "1")
        self._wait(f"all/{self.count}")

    def by_first(self, work: Callable[[], T]) -> T:
        self.count += 1
        key = f"said/{self.count}"
        if rank() == 0:
            value = work()
            self.store.set(key, json.dumps(value))
            return value
        self._wait(key)
        found: Any = json.loads(self.store.get(key))
        return found  # type: ignore[no-any-return]

    def fail(self, text: str) -> None:
        if not self.store.check(["failed"]):
            self.store.set("failed", json.dumps([rank(), text]))

    def first_has_spoken(self) -> bool:
        until = time.monotonic() + PRINT_S
        while time.monotonic() < until:
            if self.store.check(["spoken"]):
                return True
            time.sleep(POLL_S[0])
        return False

    def _wait(self, key: str) -> None:
        pause = POLL_S[0]
        try:
            while not self.store.check([key]):
                self._look_after()
                time.sleep(pause)
                pause = min(1.5 * pause, POLL_S[1])
        except RuntimeError as error:  # the store is gone, and with it the process that kept it
            raise Ended(f"the processes have lost each other ({str(error).splitlines()[0]})") from None

    def _look_after(self) -> None:
        if self.store.check(["failed"]):
            who, text = json.loads(self.store.get("failed"))
            raise Ended(f"process {who + 1} of {world()}: {text}")
        now = time.monotonic()
        for each, (last, since) in self.beats.items():
            key = f"beat/{each}"
            found = self.store.get(key).decode() if self.store.check([key]) else ""
            if found != last:
                self.beats[each] = (found, now)
            elif now - since > SILENT_S:
                raise Ended(
                    f"process {each + 1} of {world()} has given no sign of life for {SILENT_S:.0f} s; see its machine, and "
                    "start the same command again: finished work is kept"
                )


def _open() -> Any:
    """A connection to the launcher's store; where the launcher keeps none, the first process does."""
    from torch.distributed import PrefixStore, TCPStore

    is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank() == 0 and not is_kept,
        timeout=timedelta(seconds=SILENT_S),
        wait_for_workers=False,
        multi_tenant=True,
    )
    return PrefixStore(f"prefopt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _beat(is_over: threading.Event) -> None:
    number = 0
    try:
        store = _open()
        while not is_over.is_set():
            number += 1
            store.set(f"beat/{rank()}", str(number))
            is_over.wait(BEAT_S)
    except RuntimeError:  # the store is gone: who waits for it will see
        return
