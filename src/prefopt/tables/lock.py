"""One process at a time works in a folder: an operating system's lock on `.lock`, which vanishes with its process.

The file names pid and host for the message of whoever comes second; it goes with the work. What a killed process left
of it is taken over, since the lock itself died with the process.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process, notice
from prefopt.tables.ours import LOCK, remove_empty

RUN_RECORD = "run.json"  # in the folder of a run
RUN_TWIN = ".run.json"  # the same, where that is lost
RUN_DEPTH = 5  # RUN/arms/NAME/rounds/K/NN-stage
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
GRACE_S = 5.0  # a dead process's children may hold its lock a moment longer
_held: dict[tuple[Path, int, int], int] = {}  # (folder, process, thread) -> how often


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Context: this process alone works in `folder` and, if it belongs to a run, in the run's folder.

    Under torchrun only the first process locks. A folder that cannot be written needs no lock: it can be looked at.

    Raises:
        PrefoptError: another process works there, or the folder cannot be made.
    """
    if not is_first_process():
        yield
        return
    with ExitStack() as stack:
        run = run_of(folder)
        for place in ([run] if run else []) + [folder]:
            stack.enter_context(_locked(Path(os.path.realpath(place))))
        yield


def run_of(folder: Path) -> Path | None:
    """The folder of the run that a stage's folder belongs to."""
    path = Path(os.path.realpath(folder))
    return next((above for above in list(path.parents)[:RUN_DEPTH] if (above / RUN_RECORD).is_file()), None)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    mine = (folder, os.getpid(), threading.get_ident())  # a forked child holds nothing
    if mine in _held:
        _held[mine] += 1
        try:
            yield
        finally:
            _held[mine] -= 1
        return
    made = _make(folder)
    lock = _acquire(folder)
    if lock is None:
        yield
        return
    _held[mine] = 1
    try:
        yield
    finally:
        del _held[mine]
        with suppress(OSError):  # while it is held, so that no one else has the file
            (folder / LOCK).unlink()
        lock.release()
        for path in made:
            with suppress(OSError):
                remove_empty(path)


def _make(folder: Path) -> list[Path]:
    """Make the folder; returns what was made, innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefoptError(f"{folder}: cannot be made ({error.strerror}); choose another --output") from None
    return made


def _acquire(folder: Path) -> FileLock | None:
    """The lock, held; None where the folder is read-only or its file system has no locks."""
    path = folder / LOCK
    lock = FileLock(path, fallback_to_soft=False)
    until = time.monotonic() + GRACE_S
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            pid, host = _holder(path)
            if not _is_dead(pid, host) or time.monotonic() > until:
                who = f" (pid {pid}, host {host})" if pid else ""
                raise PrefoptError(
                    f"{folder}: another process works here{who}; wait for its end or stop it, or choose another --output"
                ) from None
            time.sleep(0.1)
        except FileNotFoundError:  # the process before has just left, and taken the empty folder with it
            _make(folder)
        except OSError as error:
            if error.errno in NO_LOCKS:
                notice(f"{folder}: this file system has no locks: see that no second process works here")
            elif error.errno not in READ_ONLY:
                raise PrefoptError(f"{path}: cannot be made ({error.strerror})") from None
            return None
        else:
            break
    with suppress(OSError):  # a full disk: the lock holds without its note
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
    return lock


def _holder(path: Path) -> tuple[int, str]:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return int(note["pid"]), str(note["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def _is_dead(pid: int, host: str) -> bool:
    if not pid or host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
