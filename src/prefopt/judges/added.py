"""Judges of the user's: a function of one call, or a class with `compare`, under a name for `rank.judge.kind`.

    @prefopt.register_judge("longer")
    def longer(call, *, tolerance=0):
        difference = len(call.first["completion"]) - len(call.second["completion"])
        return "tie" if abs(difference) <= tolerance else "first" if difference > 0 else "second"

A function is given a `Comparison` and says "first", "second" or "tie", P(first is better) as a number, None where it
has no verdict, or a `Verdict`. A class is made once per stage, its keyword-only parameters are the judge's options.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from prefopt.core.plugins import digests, told
from prefopt.judges.verdicts import Comparison, Verdict, winner_of

KIND = "judge"
WINNERS = ("first", "second", "tie", "missing", "unparsed")


class AddedJudge:
    """A judge of a plug-in behind the protocol of `PairwiseJudge`; what it raises is told with file and line."""

    def __init__(self, name: str, made: Callable[..., Any], options: dict[str, Any], tie_band: float) -> None:
        self.name, self.options, self.tie_band = name, options, tie_band
        self.asked: Any = None
        if inspect.isclass(made):
            with told(KIND, name):
                self.asked = made(**options)
        self.function = made
        self.both_orders = bool(getattr(self.asked, "both_orders", True))
        self.averages = bool(getattr(self.asked, "averages", False))
        self.cacheable = bool(getattr(self.asked, "cacheable", True))

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, in order.

        Raises:
            PrefoptError: the judge fails or gives something else than verdicts; names its file and line.
        """
        with told(KIND, self.name):
            if self.asked is None:
                return [self._verdict(self.function(call, **self.options)) for call in batch]
            found = list(self.asked.compare(batch, seed))
            if len(found) != len(batch):
                raise ValueError(
                    f"gave {len(found)} verdicts for {len(batch)} calls; give one for each, in order"
                )
            return [self._verdict(one) for one in found]

    def _verdict(self, found: Any) -> Verdict:
        if isinstance(found, Verdict):
            return found
        if found is None:
            return Verdict("missing")
        if isinstance(found, str) and found in WINNERS:
            return Verdict(found)  # type: ignore[arg-type]
        if isinstance(found, numbers.Real) and not isinstance(found, bool) and 0 <= float(found) <= 1:
            return Verdict(winner_of(float(found), self.tie_band), float(found))
        raise TypeError(
            f"gave {found!r}; say 'first', 'second' or 'tie', P(first is better) from 0 to 1, None, or a Verdict"
        )

    def describe(self) -> dict[str, Any]:
        """Name, options and source, and what the judge itself says."""
        own = self.asked.describe() if hasattr(self.asked, "describe") else {}
        return {"kind": self.name, "options": self.options, "source": digests(KIND, [self.name]), **own}
