"""Lines for the person at the terminal that are no result: on standard error, by the first process alone."""

from __future__ import annotations

import os
import sys

from prefopt.core.terminal import one_line


def is_first_process() -> bool:
    """Whether this is the only process or, under torchrun, the one of rank 0."""
    return os.environ.get("RANK", "0") == "0"


def notice(text: str) -> None:
    """Print one line on standard error, what others named escaped."""
    if is_first_process():
        print(one_line(text), file=sys.stderr, flush=True)
