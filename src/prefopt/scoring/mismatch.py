"""Which completion of another row each row is set against: KTO's estimate of the KL divergence (2402.01306, section 4.1).

Drawn once per data set by content and seed, so that neither the order of rows nor batches nor processes matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prefopt.core.errors import PrefoptError
from prefopt.rules.order import settled_order
from prefopt.scoring.store import is_single, row_key
from prefopt.tables.records import Row, digest


class Mismatch:
    """The draw for a table of pairs or unpaired rows.

    The rows stand in a random circle. A row is set against the nearest one behind it that asks another prompt; of a
    pair, one of its two answers is taken. is_one_prompt: all rows ask the same one, and any other row will do.

    Raises:
        PrefoptError: fewer than two rows.
    """

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self.rows, self.seed = rows, seed
        # of a digest, 64 bits: two prompts that share them would only not stand against one another
        prompts = (_start(digest(row["prompt"], row.get("tools"))) for row in rows)
        self.prompts = np.fromiter(prompts, dtype=np.uint64, count=len(rows))
        if len(rows) < 2:
            raise PrefoptError(
                "reference: KTO sets a completion against that of another row, and there is no second one; give more rows, "
                "or take apo_zero_unpaired or bco"
            )
        self.is_one_prompt = bool((self.prompts == self.prompts[0]).all())

    def _mark(self, row: Row) -> str:
        return digest(self.seed, row_key(row))

    @cached_property
    def _circle(self) -> NDArray[np.int64]:
        """The rows [N] in order of their mark, then of their id."""
        starts = np.fromiter((_start(self._mark(row)) for row in self.rows), np.uint64, count=len(self.rows))
        return settled_order(starts, self._full_mark)

    def _full_mark(self, index: int) -> tuple[str, str]:
        row = self.rows[index]
        return self._mark(row), str(row["id"])

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        place = np.empty_like(self._circle)
        place[self._circle] = np.arange(len(place))
        return place

    def candidates(self, index: int) -> Iterator[tuple[Row, str]]:
        """(row, side) whose answer stands against row `index`, best first; later ones are for rows that cannot be used.

        side: chosen, rejected or completion.
        """
        size, start = len(self._circle), int(self._place[index])
        for step in range(1, size):
            other = int(self._circle[(start + step) % size])
            if self.is_one_prompt or self.prompts[other] != self.prompts[index]:
                row = self.rows[other]
                yield row, self._side(row)

    def _side(self, row: Row) -> str:
        if is_single(row):
            return "completion"
        return ("chosen", "rejected")[int(self._mark(row)[-1], 16) % 2]


def _start(name: str) -> int:
    """The first 64 bits of a digest."""
    return int(name[:16], 16)
