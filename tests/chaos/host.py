"""A process that imports prefopt once and runs its command line in forked children, as they are told to on standard input.

Each request is a line of JSON (`driving.Host` writes it); each child gets a working folder, files for its output, limits,
and, maybe, a place at which it dies. A line of JSON tells how each ended. What a child imported the host imports too, so
that the next child need not.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK_S = 0.004
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")


class FileOperations:
    """Counts a child's file operations below `root`, those that change something; at the `die_at`-th it dies, before its effect.

    tear: what stood on its way to the disk is cut in half first, as by a death while it was written.
    """

    def __init__(self, root: Path, die_at: int | None, tear: bool, log: Path) -> None:
        self.root, self.die_at, self.tear, self.log = f"{root.resolve()}/", die_at, tear, log
        self.count = 0
        self.is_on = True
        self.original_fsync = os.fsync
        os.fsync = self._fsync  # type: ignore[assignment]
        sys.addaudithook(self._hook)

    def _fsync(self, descriptor: int) -> None:
        self._operation("fsync", "")
        self.original_fsync(descriptor)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not self.is_on:
            return
        path = arguments[0]
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        # relative to a folder's descriptor (as in shutil.rmtree): the folder is one of ours
        relative = event not in ("open", "os.truncate") and arguments[-1] != -1 and not os.path.isabs(name)
        name = os.path.abspath(name)
        if relative or name.startswith(self.root):
            self._operation(event, name)

    def _operation(self, event: str, path: str) -> None:
        self.count += 1
        if self.count != self.die_at:
            return
        self.is_on = False
        if self.tear:
            self._cut(event, path)
        self.log.write_text(f"{self.count} {event} {path}")
        os.kill(os.getpid(), signal.SIGKILL)

    def _cut(self, event: str, path: str) -> None:
        if event == "os.rename" and os.path.isfile(path):
            os.truncate(path, os.path.getsize(path) // 2)
        for journal in Path(self.root).rglob("*.jsonl"):
            if ".work" in journal.parts and time.time() - journal.stat().st_mtime < 5:
                with contextlib.suppress(OSError):
                    os.truncate(journal, max(0, journal.stat().st_size - 7))


class Late:
    """What libraries get as their standard error while they are imported: writes where that is at the moment of writing."""

    def write(self, text: str) -> int:
        return len(text) if sys.stderr is self else sys.stderr.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.__stderr__ if sys.stderr is self else sys.stderr, name)


def child(request: dict[str, Any]) -> None:
    """Run the command and exit with its code; never returns."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request.get("env") or {})
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    encoding = request.get("encoding") or "utf-8"
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdin = open(os.devnull)  # noqa: SIM115
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    for name, limit in (request.get("limits") or {}).items():
        kind = getattr(resource, f"RLIMIT_{name}")
        if name == "AS":  # above what the host itself has mapped
            limit += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(kind, (limit, limit))
    watch = request.get("watch")
    operations = (
        FileOperations(Path(watch), request.get("die_at"), bool(request.get("tear")), Path(request["log"]))
        if watch
        else None
    )
    code = run(request)
    if operations is not None:
        operations.is_on = False
        Path(request["log"]).write_text(f"{operations.count} end")
    if request.get("modules"):
        Path(request["modules"]).write_text("\n".join(sys.modules))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def run(request: dict[str, Any]) -> int:
    """The command line's own exit code; 1 with a traceback for anything that gets out of it."""
    from prefopt.cli.app import main

    sys.argv = ["prefopt", *request["argv"]]
    if request.get("before"):
        exec_hook(request["before"])
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def exec_hook(place: str) -> None:
    """Call `module:function` of this folder in the child before the command."""
    module, name = place.split(":")
    hook: Callable[[], None] = getattr(importlib.import_module(module), name)
    hook()


def adopt(path: str) -> None:
    """Import what a child had imported."""
    sys.stderr = Late()  # type: ignore[assignment]
    for name in Path(path).read_text().split("\n"):
        if name not in sys.modules and name != "__main__":
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def serve() -> None:
    """Read requests, fork, tell of ends, until standard input ends; then kill what still runs."""
    running: dict[int, tuple[dict[str, Any], float]] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], TICK_S if running else None)
        if ready:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "adopt" in request:
                    adopt(request["adopt"])
                    tell({"id": request["id"], "code": 0})
                    continue
                pid = os.fork()
                if pid == 0:
                    try:
                        child(request)
                    finally:
                        os._exit(70)
                running[pid] = (request, time.monotonic())
        reap(running)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def reap(running: dict[int, tuple[dict[str, Any], float]]) -> None:
    """Tell of children that ended; kill those whose time is over."""
    for pid, (request, start) in list(running.items()):
        seconds = time.monotonic() - start
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            del running[pid]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it left behind
            tell({"id": request["id"], "code": os.waitstatus_to_exitcode(status), "seconds": seconds})
        elif request.get("kill_after_s") is not None and seconds > request["kill_after_s"]:
            os.kill(pid, signal.SIGKILL)
        elif seconds > request["timeout_s"]:
            request["timed_out"] = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def tell(answer: dict[str, Any]) -> None:
    os.write(3, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Import, say so, serve."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stderr = Late()  # type: ignore[assignment]
    import torch

    torch.set_num_threads(1)
    import prefopt.cli.app
    import prefopt.pipeline.run  # noqa: F401

    gc.collect()
    gc.freeze()
    tell({"id": 0, "code": 0})
    serve()


if __name__ == "__main__":
    main()
