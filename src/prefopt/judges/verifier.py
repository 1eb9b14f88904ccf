"""The verifier as a judge: right beats wrong by the gold answer, else a tie. No model, and the order means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict
from prefopt.verify import Failure, VerifyConfig, answer_classes, extract_answer, gold_answer, score_rows
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
        rows = [{"prompt": call.prompt, **row} for call in batch for row in (call.first, call.second)]
        right = self._are_right(rows)
        return [self._verdict(first, second) for first, second in zip(right[::2], right[1::2], strict=True)]

    def _verdict(self, first: bool | None, second: bool | None) -> Verdict:
        if first is None or second is None:
            return Verdict("missing", text="no gold answer" if self.config.kind == ANSWER else "no verdict")
        if first == second:
            return Verdict("tie", 0.5, "both right" if first else "both wrong")
        return Verdict("first", 1.0, "first right") if first else Verdict("second", 0.0, "second right")

    def _are_right(self, rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
        if self.config.kind == ANSWER:
            return [self._is_right(row) for row in rows]
        found = score_rows(rows, self.config, may_all_fail=True)
        return [None if isinstance(score, Failure) else score.is_correct for score in found]

    def _is_right(self, row: Mapping[str, Any]) -> bool | None:
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
