"""A judge of known worth: hidden quality, noise, position bias and ties, for studies and tests.

P(first wins) = sigmoid(slope (q_first - q_second) + first_bias). Every call draws by a hash of the seed and of what is
compared, so that the verdict does not depend on its place in a batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.judges import Comparison, PairwiseJudgeConfig, SimulatedSettings, Verdict
from prefopt.tables.records import Row, to_json

if TYPE_CHECKING:
    from prefopt.tables.context import Context

NORMAL = NormalDist()


class SimulatedJudge:
    """Not cached by content: quality stands in a column, and two equal texts may differ in it."""

    name = "simulated"
    both_orders = True
    averages = False
    cacheable = False

    def __init__(self, settings: SimulatedSettings) -> None:
        self.settings = settings
        self._drawn = "column" not in settings.model_fields_set

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, without a probability.

        Raises:
            PrefoptError: the column of the quality is missing or holds no number.
        """
        return [self._one(call, seed) for call in batch]

    def _one(self, call: Comparison, seed: int) -> Verdict:
        asked = [
            str(seed),
            call.prompt_id,
            *(text for row in (call.first, call.second) for text in (str(row["id"]), _text(row))),
        ]
        tie, noise = uniforms(*asked)
        if tie < self.settings.tie_rate:
            return Verdict("tie")
        quality = [self.quality(call.prompt_id, row) for row in (call.first, call.second)]
        logit = self.settings.slope * (quality[0] - quality[1]) + self.settings.first_bias
        return Verdict("first" if noise < sigmoid(logit) else "second")

    def quality(self, prompt_id: str, row: Row) -> float:
        """The column's number (true = 1, false = 0), or a draw from N(0, 1) by a hash of prompt and answer."""
        value = row.get(self.settings.column)
        if value is None and self._drawn:
            return NORMAL.inv_cdf(uniforms("quality", prompt_id, _text(row))[0])
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise PrefoptError(
                f"judge simulated: row {row['id']!r}: column {self.settings.column!r} holds {value!r:.40}, no number; "
                "set judge.simulated.column"
            )
        return float(value)

    def describe(self) -> dict[str, Any]:
        """Kind and settings."""
        return {"kind": "simulated", **self.settings.model_dump(mode="json")}


def _text(row: Row) -> str:
    return to_json(row.get("completion"))


def uniforms(*parts: str) -> tuple[float, float]:
    """Two numbers in (0, 1), a pure function of the texts."""
    found = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()
    scale = float(1 << 52)
    first, second = (int.from_bytes(found[at : at + 8], "big") >> 12 for at in (0, 8))
    return (first + 0.5) / scale, (second + 0.5) / scale


def sigmoid(x: float) -> float:
    """Logistic function, finite at any x."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x)) if x > -700 else 0.0


def open_judge(config: PairwiseJudgeConfig, context: Context) -> SimulatedJudge:
    """The simulated judge with the settings of `config.simulated`."""
    return SimulatedJudge(config.simulated)
