"""Inside the worker process of a check of the user's: `python -m prefopt.verify.child FILE NAME`.

Messages are JSON lines `{"rows": [...], "batch": bool}`; the reply has one entry per row: a score, or what was raised.
Whatever the check prints goes to standard error, so that it cannot pass for a reply.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from prefopt.verify.score import as_score

Check = Callable[..., Any]


def load_check(path: Path, name: str) -> Check:
    """The function `name` of a file; the file's folder is where it may import from.

    Raises:
        LookupError: the file has none, or it is no function. Whatever the file itself raises.
    """
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    check = getattr(module, name, None)
    if not callable(check):
        raise LookupError(f"it has no function {name!r}")
    return check  # type: ignore[no-any-return]


def run_rows(
    check: Check, path: Path, rows: Sequence[Mapping[str, Any]], *, batch: bool
) -> list[dict[str, Any]]:
    """One entry per row; what a batch raises is every row's."""
    if not batch:
        return [_run_row(check, path, row) for row in rows]
    try:
        given = [row["prompt"] for row in rows], [row.get("completion") or "" for row in rows], list(rows)
        found = list(check(*given))
        if len(found) != len(rows):
            raise ValueError(f"gave {len(found)} verdicts for {len(rows)} rows")
        return [_entry(one, row) for one, row in zip(found, rows, strict=True)]
    except (Exception, SystemExit) as error:
        return [failed(error, path)] * len(rows)


def _run_row(check: Check, path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _entry(check(row["prompt"], row.get("completion") or "", row), row)
    except (Exception, SystemExit) as error:  # a check that ends the process has failed, like any other
        return failed(error, path)


def _entry(found: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    score = as_score(found, row.get("id"))
    verdict = None if score.is_correct is None else bool(score.is_correct)
    value = None if score.score is None else float(score.score)
    answer = None if score.answer is None else str(score.answer)
    return {"is_correct": verdict, "score": value, "answer": answer}


def failed(error: BaseException, path: Path) -> dict[str, Any]:
    """Kind, first line and place (the innermost line of the file) of what was raised."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line: int | None = error.lineno
    else:
        own = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
        line = own[-1] if own else None
    said = next((text.strip() for text in str(error).splitlines() if text.strip()), "")
    return {"failed": type(error).__name__, "said": said[:200], "line": line}


def _replies() -> IO[str]:
    """The pipe to the parent; standard output itself becomes standard error, also for libraries in C."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return pipe


def main(words: Sequence[str]) -> None:
    """Load the check, say that it is ready (or why not), answer until standard input closes."""
    replies = _replies()
    path, name = Path(words[0]), words[1]
    try:
        check = load_check(path, name)
    except (Exception, SystemExit) as error:
        print(json.dumps(failed(error, path)), file=replies, flush=True)
        return
    print("true", file=replies, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        found = run_rows(check, path, message["rows"], batch=message["batch"])
        print(json.dumps(found), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
