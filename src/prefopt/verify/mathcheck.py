"""Symbolic equality by math-verify in a worker process that can be killed; its memory is limited too."""

from __future__ import annotations

import atexit
import json
import os
import sys
from functools import lru_cache
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.verify.worker import Died, NotStarted, OverTime, Worker

MEMORY_BYTES = 4 * 2**30
CLOSE = 1e-5  # numbers further apart, as a share of the larger one, are two

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
        _workers[pid] = Worker(["prefopt.verify.mathcheck"])
        atexit.register(_workers[pid].close)
    try:
        verdict = _workers[pid].ask([first, second], timeout_s)
    except NotStarted:
        raise PrefoptError(
            "the worker for symbolic comparison does not start; check `python -c 'import math_verify'`"
        ) from None
    except (OverTime, Died):
        verdict = None
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
