"""The verifier as a judge: right beats wrong by the gold answer, else a tie. No model, and the order means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict
from prefopt.verify import VerifyConfig, answer_classes, extract_answer, gold_answer, score_completion
from prefopt.verify.verifiers import ANSWER

if TYPE_CHECKING:
    from prefopt.tables.context import Context


class VerifierJudge:
    """Compares by `gold` of the rows; where there is none, by their `is_correct`; else the verdict is missing."""

    name = "verifier"
    both_orders = False
    averages = False
    cacheable = True

    def __init__(self, config: VerifyConfig) -> None:
        self.config = config

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call; probability is 1, 0.5 or 0."""
        return [self._one(call) for call in batch]

    def _one(self, call: Comparison) -> Verdict:
        first, second = (self._is_right({"prompt": call.prompt, **row}) for row in (call.first, call.second))
        if first is None or second is None:
            return Verdict("missing", text="no gold answer" if self.config.kind == ANSWER else "no verdict")
        if first == second:
            return Verdict("tie", 0.5, "both right" if first else "both wrong")
        return Verdict("first", 1.0, "first right") if first else Verdict("second", 0.0, "second right")

    def _is_right(self, row: Mapping[str, Any]) -> bool | None:
        if self.config.kind != ANSWER:
            return score_completion(row, self.config).is_correct
        gold = row.get("gold")
        wanted = gold_answer(gold, self.config) if gold is not None else None
        if wanted is None:
            flag = row.get("is_correct")
            return None if flag is None else bool(flag)
        answer = extract_answer(str(row["completion"] or ""), self.config)
        classes, gold_class = answer_classes([answer], wanted, self.config)
        return classes[0] == gold_class

    def describe(self) -> dict[str, Any]:
        """Kind and how answers are found."""
        return {"kind": "verifier", "verifier": self.config.model_dump(mode="json")}


def open_judge(config: PairwiseJudgeConfig, context: Context) -> VerifierJudge:
    """The verifier with the settings of `config.verifier`."""
    return VerifierJudge(config.verifier)
