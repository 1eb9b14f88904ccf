"""Answer tokens that are context: what a user or a tool says within an answer, and headers, have mask 0.

Ids and mask travel as one array of integers: a token that does not count is kept as its bitwise complement (-1 - id).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Ids = Sequence[int] | np.ndarray


def marked(ids: Sequence[int], counts: Sequence[bool] | None) -> list[int]:
    """Ids [T] with those that do not count as their complement. counts: one per token; None: all count."""
    return (
        list(ids)
        if counts is None
        else [i if counts_ else ~i for i, counts_ in zip(ids, counts, strict=True)]
    )


def plain_ids(ids: Ids) -> np.ndarray:
    """Token ids [T] without their marks."""
    array = np.asarray(ids, dtype=np.int64)
    return np.where(array < 0, ~array, array)


def counting(ids: Ids) -> np.ndarray:
    """Which tokens count, bool [T]."""
    return np.asarray(ids) >= 0


def count_of(ids: Ids) -> int:
    """How many tokens count."""
    return int(np.count_nonzero(counting(ids)))


def up_to(ids: Any, tokens: int) -> Any:
    """The ids up to the `tokens`-th that counts (all of them where fewer do)."""
    places = np.flatnonzero(counting(ids))
    return (
        ids[: int(places[tokens - 1]) + 1] if 0 < tokens <= len(places) else ids[:0] if tokens <= 0 else ids
    )
