"""The one exception that a user sees as a line and exit code 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class PrefoptError(Exception):
    """Bad input or bad settings, told in one line: what is wrong, where, and how to mend it."""


class Diverged(PrefoptError):
    """A training whose loss or gradient is no number any more: with other settings it may go well."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, or the known words when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + ", ".join(names)


# of torch's allocators and the libraries below them, which have no class of their own for it
_NO_MEMORY = (
    "an't allocate memory",
    "annot allocate memory",
    "out of memory",
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",
    "failed to map segment",
    "can't start new thread",
)
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# of safetensors and torch.save, which give no number
_NO_SPACE_WORDS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "inline_container.cc",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    is_such = isinstance(error, RuntimeError | OSError | ImportError)
    return is_such and any(word in str(error) for word in _NO_MEMORY)


def no_space(error: BaseException) -> str | None:
    """Why a file could not be written, where the disk is full or a quota or limit is reached; else None."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return error.strerror or "no space left"
    # torch.save fails a second time while it closes the file; what the system said stands behind it
    before = error.__context__
    if before is not None and (found := no_space(before)):
        return found
    if isinstance(error, OSError) and error.errno is not None:
        return None
    text = " ".join(str(error).split())
    word = next((word for word in _NO_SPACE_WORDS if word in text), None)
    if word is None or out_of_memory(error):
        return None
    return (
        word if word in _NO_SPACE_WORDS[:3] else "writing stopped: no space, or a limit on the size of files"
    )
