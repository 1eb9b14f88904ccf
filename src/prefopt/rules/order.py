"""Orders that depend on ids and a seed, never on the order of rows.

Ids may be a sequence that reads each of them when it is asked for: nothing here keeps an object per id, except of ids that
do not stand in order in `score_order`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefopt.core.lazy import Lazy


class Picked(Lazy[str]):
    """`[ids[i] for i in places]` without the list."""

    def __init__(self, ids: Sequence[str], places: NDArray[np.int64]) -> None:
        self._ids, self._places = ids, places

    def __len__(self) -> int:
        return len(self._places)

    def at(self, place: int) -> str:
        """The item at `place`."""
        return self._ids[int(self._places[place])]


def hash_order(ids: Sequence[str], seed: int, salt: str = "") -> NDArray[np.int64]:
    """Positions [N] of `ids` in a seeded random order, a pure function of the set of ids.

    SHA-256 stands in for a random generator: its order is the same on every machine and with every library version.
    """

    def key(id: str) -> bytes:
        # surrogatepass: an id is the user's text and may hold anything
        return hashlib.sha256(f"{seed}\0{salt}\0{id}".encode(errors="surrogatepass")).digest()

    marks = np.fromiter((int.from_bytes(key(id)[:8]) for id in ids), np.uint64, count=len(ids))
    return settled_order(marks, lambda place: (key(ids[place]), ids[place]))


def settled_order(marks: NDArray[np.uint64], key: Callable[[int], Any]) -> NDArray[np.int64]:
    """Positions [N] in rising order of `marks`; those of equal marks by `key` of the position."""
    order = np.argsort(marks, kind="stable").astype(np.int64)
    is_end = np.append(marks[order[1:]] != marks[order[:-1]], True) if len(order) else np.zeros(0, np.bool_)
    ends = np.flatnonzero(is_end) + 1
    firsts = np.append(0, ends)[:-1]
    several = ends - firsts > 1
    for first, end in zip(firsts[several].tolist(), ends[several].tolist(), strict=True):
        order[first:end] = sorted(order[first:end].tolist(), key=key)
    return order


def score_order(scores: NDArray[np.float64], ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions [N] from the highest score to the lowest; ties by id, ascending."""
    id_rank = np.arange(len(ids))
    if any(one > other for one, other in pairwise(ids)):
        by_id = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), dtype=np.int64)
        id_rank[by_id] = np.arange(len(ids))
    return np.lexsort((id_rank, -scores)).astype(np.int64)
