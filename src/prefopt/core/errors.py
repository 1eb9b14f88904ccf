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
