"""Our pairwise model as a judge: it reads the prompt and both answers; P(first better) = sigmoid(its output)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict, winner_of
from prefopt.judges.prompt import prompt_text
from prefopt.judges.reward_model import model_path, sigmoid

if TYPE_CHECKING:
    from prefopt.tables.context import Context


class PairwiseModelJudge:
    """Compares with a model of `prefopt train-reward --kind pairwise`."""

    name = "pairwise_model"
    both_orders = True
    averages = True
    cacheable = True

    def __init__(self, path: Path, config: PairwiseJudgeConfig) -> None:
        from prefopt.models.load import default_device, load_tokenizer, model_digest
        from prefopt.scoring.reward import load_reward_model, longest, reward_kind

        self.tokenizer = load_tokenizer(path)
        self.model = load_reward_model(path, self.tokenizer).to(default_device())
        if reward_kind(self.model) != "pairwise":
            raise PrefoptError(f"{path}: not a pairwise model; use judge kind reward_model")
        limit = longest(self.model, self.tokenizer)
        self.max_length = min(config.max_length or limit, limit)
        self.batch_size, self.tie_band = config.batch_size, config.tie_band
        self.about = {"model_digest": model_digest(path), "max_length": self.max_length}

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, of this order alone."""
        from prefopt.models.template import PromptTooLong
        from prefopt.scoring.reward import encode_comparison, read_all

        encoded: dict[int, list[int]] = {}
        for place, call in enumerate(batch):
            answers = [str(row["completion"] or "") for row in (call.first, call.second)]
            try:
                encoded[place] = encode_comparison(
                    self.tokenizer, prompt_text(call.prompt), *answers, max_length=self.max_length
                )
            except PromptTooLong:
                continue
        values = read_all(self.model, list(encoded.values()), batch_size=self.batch_size)
        logits = dict(zip(encoded, values, strict=True))
        return [self._verdict(logits.get(k), len(encoded.get(k, ()))) for k in range(len(batch))]

    def _verdict(self, logit: float | None, tokens: int) -> Verdict:
        if logit is None:
            return Verdict("missing", text="prompt too long")
        p = sigmoid(logit)
        return Verdict(winner_of(p, self.tie_band), p, prompt_tokens=tokens)

    def describe(self) -> dict[str, Any]:
        """Kind, tie band and what the model computes."""
        return {"kind": "pairwise_model", "tie_band": self.tie_band, **self.about}


def open_judge(config: PairwiseJudgeConfig, context: Context) -> PairwiseModelJudge:
    """The judge on the pairwise model `config.model`."""
    return PairwiseModelJudge(model_path(config), config)
