"""A check in a Python file of the user's: run in a worker process, with a limit of time for every row.

    def check(prompt, completion, row):          # judge: {kind: function, path: my_checks.py, name: check}
        return len(completion.split()) <= 12     # True, False, a number, None or prefopt.Score

What it raises, prints, or never finishes costs that row alone.
"""

from __future__ import annotations

import ast
import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.notice import notice
from prefopt.core.plugins import source_digest
from prefopt.verify.score import Failure, Score
from prefopt.verify.settings import VerifyConfig
from prefopt.verify.worker import Died, NotStarted, OverTime, Worker

BATCH_ROWS = 64  # rows of one call of a check that takes lists
MOST_LINES = 20  # of what a check prints are shown
_workers: dict[tuple[Any, ...], Worker] = {}  # (process id, file, digest, name) -> worker


def find_check(config: VerifyConfig) -> Path:
    """The file of the check, which is read but not run.

    Raises:
        PrefoptError: no such file, no Python, or no such function in it (the nearest is named).
    """
    path = Path(config.path or "").expanduser()
    where = f"check {config.path}"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise PrefoptError(
            f"{where}: cannot be read ({error.strerror}); give the path of a Python file"
        ) from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise PrefoptError(f"{config.path}:{line or 1}: no Python ({error}); mend the file") from None
    names = _names(tree)
    if config.name not in names and not any(isinstance(node, ast.ImportFrom) for node in tree.body):
        hint = nearest(config.name, names) if names else "it has no functions"
        raise PrefoptError(f"{where}: no function {config.name!r}, {hint}; set name")
    return path.resolve()


def _names(tree: ast.Module) -> list[str]:
    """What a file defines at its top: functions, classes and other names."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return found


def run_function(rows: Sequence[Mapping[str, Any]], config: VerifyConfig) -> list[Score | Failure]:
    """What the check says of each row; a failure where it raised, took longer than `timeout_s`, or ended its process.

    With `batch` it is given `BATCH_ROWS` rows at a time and that much more time; where that fails, one row at a time, so
    that a row which it cannot take costs no other.

    Raises:
        PrefoptError: the file is not there, or cannot be loaded.
    """
    path = find_check(config)
    worker = _worker(path, config)
    step = BATCH_ROWS if config.batch else 1
    found: list[Score | Failure] = []
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        got = _ask(worker, chunk, config)
        if len(chunk) > 1 and any(isinstance(one, Failure) for one in got):
            got = [_ask(worker, [row], config)[0] for row in chunk]
        found += got
    return found


def _worker(path: Path, config: VerifyConfig) -> Worker:
    key = (os.getpid(), path, source_digest(path), config.name)
    if key not in _workers:
        for other in [other for other in _workers if other[1:2] == key[1:2] and other[3] == key[3]]:
            _workers.pop(other).close()  # of an earlier version of the file
        _workers[key] = Worker(["prefopt.verify.child", str(path), config.name], _shown(path.name))
        atexit.register(_workers[key].close)
    return _workers[key]


def _shown(name: str) -> Callable[[str], None]:
    """Prints the first lines that a check says."""
    seen = 0

    def heard(line: str) -> None:
        nonlocal seen
        seen += 1
        if seen <= MOST_LINES:
            notice(f"{name} says: {line}")
        elif seen == MOST_LINES + 1:
            notice(f"{name} says more; from here on it is not shown")

    return heard


def _ask(worker: Worker, rows: Sequence[Mapping[str, Any]], config: VerifyConfig) -> list[Score | Failure]:
    message = {"rows": [_plain(row) for row in rows], "batch": config.batch}
    where = Path(config.path or "").name
    try:
        reply = worker.ask(message, config.timeout_s * len(rows))
    except OverTime:
        reason = f"check took more than {config.timeout_s:g} s"
        return [Failure(reason, f"{where}: {config.name}: {reason}; see timeout_s")] * len(rows)
    except NotStarted as error:
        if isinstance(worker.ready, dict):
            line = f":{worker.ready['line']}" if worker.ready["line"] else ""
            said = f"{worker.ready['failed']}: {worker.ready['said']}"
            raise PrefoptError(f"{config.path}{line}: cannot be loaded: {said}") from None
        raise PrefoptError(
            f"{config.path}: its process does not start ({error}); try python {config.path}"
        ) from None
    except Died as error:
        reason = f"check ended its process ({error})"
        return [Failure(reason, f"{where}: {config.name}: {reason}")] * len(rows)
    return [_read(entry, config, row) for entry, row in zip(reply, rows, strict=True)]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON can carry it."""
    return {name: value if _is_plain(value) else str(value) for name, value in row.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _read(entry: Mapping[str, Any], config: VerifyConfig, row: Mapping[str, Any]) -> Score | Failure:
    if "failed" not in entry:
        return Score(entry["is_correct"], entry["score"], entry["answer"])
    where = (
        f"{Path(config.path or '').name}:{entry['line']}" if entry["line"] else Path(config.path or "").name
    )
    said = f": {entry['said']}" if entry["said"] else ""
    text = f"{where}: {config.name}: {entry['failed']}{said} (row {row.get('id')})"
    return Failure(f"check raised {entry['failed']} ({where})", text)
