"""The one exception that a user sees as a line and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrefoptError(Exception):
    """Bad input or bad settings, told in one line: what is wrong, where, and how to mend it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, or the known words when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)


# of torch's allocators and the libraries below them, which have no class of their own for it
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in _NO_MEMORY)
