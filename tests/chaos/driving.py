"""The other end of `host.py`: runs commands of prefopt in forked children and says how they ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

HERE = Path(__file__).parent
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended. code: negative for a signal. operations: changes of files that it made (where counted)."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float
    operations: int | None = None
    died_at: str = ""

    @property
    def errors(self) -> list[str]:
        """Lines of standard error that say what went wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]

    @property
    def has_traceback(self) -> bool:
        """Whether something got out that nobody foresaw: shown, or kept in a file that the error line names."""
        return (
            "Traceback (most recent call last)" in self.stderr
            or "internal fault" in self.stderr
            or self.code == 1
        )

    @property
    def is_refusal(self) -> bool:
        """Exit code 2 and one line that says why."""
        return self.code == 2 and len(self.errors) == 1 and not self.has_traceback

    def shown(self) -> str:
        """A line for a list of what went wrong."""
        tail = self.stderr.strip().splitlines()[-1:] or [""]
        return f"prefopt {' '.join(self.argv)} -> {self.code}: {tail[0][:300]}"


class Running:
    """A command that was started."""

    def __init__(self, argv: tuple[str, ...], scratch: Path, number: int) -> None:
        self.argv, self.number = argv, number
        self.stdout, self.stderr = scratch / f"{number}.out", scratch / f"{number}.err"
        self.log = scratch / f"{number}.log"
        self.ended: Queue[dict[str, Any]] = Queue()

    def wait(self, timeout_s: float = 600.0) -> Outcome:
        try:
            answer = self.ended.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError(f"no end of {self.argv}") from None
        log = self.log.read_text() if self.log.is_file() else ""
        # half-lines of a killed child need not be text
        out, err = (
            p.read_bytes().decode("utf-8", "replace") if p.is_file() else ""
            for p in (self.stdout, self.stderr)
        )
        for path in (self.stdout, self.stderr, self.log):
            path.unlink(missing_ok=True)
        count = int(log.split(" ", 1)[0]) if log else None
        died = log if answer["code"] < 0 else ""
        return Outcome(self.argv, answer["code"], out, err, answer.get("seconds", 0.0), count, died)


class Host:
    """Context: a process with everything imported. scratch: folder for outputs of children."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._count = 0
        self._waiting: dict[int, Running] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.scratch.mkdir(parents=True, exist_ok=True)
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment = {
            **os.environ,
            **offline,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])
        )
        read, write = os.pipe()
        self._log = (self.scratch / "host.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import os; os.dup2({write}, 3); import host; host.main()"],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, env=environment, pass_fds=(write,),
        )  # fmt: skip
        os.close(write)
        ready = Running((), self.scratch, 0)
        self._waiting[0] = ready
        self._reader = threading.Thread(target=self._listen, args=(read,), daemon=True)
        self._reader.start()
        ready.wait(300)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reader.join()
        self._log.close()

    def _listen(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as answers:
            for line in answers:
                answer = json.loads(line)
                with self._lock:
                    running = self._waiting.pop(answer["id"])
                running.ended.put(answer)
        with self._lock:
            for running in self._waiting.values():
                running.ended.put({"code": 99})

    def _send(self, running: Running, request: dict[str, Any]) -> Running:
        assert self._process.stdin is not None
        with self._lock:
            self._waiting[running.number] = running
            self._process.stdin.write(json.dumps({"id": running.number, **request}).encode() + b"\n")
            self._process.stdin.flush()
        return running

    def start(self, argv: list[str], cwd: Path, **plan: Any) -> Running:
        """Start `prefopt ARGV` in `cwd`. plan: timeout_s, env, limits, watch, die_at, tear, kill_after_s, encoding (see host.py)."""
        self._count += 1
        running = Running(tuple(argv), self.scratch, self._count)
        if "watch" in plan:
            plan["watch"] = str(plan["watch"])
        return self._send(running, {
            "argv": argv, "cwd": str(cwd), "stdout": str(running.stdout), "stderr": str(running.stderr),
            "log": str(running.log), "timeout_s": TIMEOUT_S, **plan,
        })  # fmt: skip

    def run(self, argv: list[str], cwd: Path, **plan: Any) -> Outcome:
        """Run `prefopt ARGV` to its end."""
        return self.start(argv, cwd, **plan).wait(plan.get("timeout_s", TIMEOUT_S) + 60)

    def warm(self, argv: list[str], cwd: Path, **plan: Any) -> Outcome:
        """`run`, and whatever the child imported the host imports as well."""
        modules = self.scratch / "modules"
        outcome = self.run(argv, cwd, modules=str(modules), **plan)
        self._count += 1
        self._send(Running((), self.scratch, self._count), {"adopt": str(modules)}).wait()
        return outcome
