"""A scalar reward model as a judge: both answers are scored alone, P(first better) = sigmoid(r_first - r_second)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import notice
from prefopt.judges import Comparison, PairwiseJudgeConfig, Verdict, winner_of
from prefopt.tables.records import digest

if TYPE_CHECKING:
    from prefopt.tables.context import Context


class RewardScorer:
    """A scalar reward model read one text at a time; each text is read once and its reward kept.

    max_length: tokens of prompt and answer (None: the model's own limit); answers are cut at their end.

    Raises:
        PrefoptError: no scalar reward model at `path`.
    """

    def __init__(self, path: Path, *, batch_size: int = 16, max_length: int | None = None) -> None:
        from prefopt.models.load import default_device, load_tokenizer, model_digest, template_digest
        from prefopt.scoring.reward import KIND, load_reward_model, longest, reward_kind, way_of_reading

        self.tokenizer = load_tokenizer(path)
        self.model = load_reward_model(path, self.tokenizer).to(default_device())
        if reward_kind(self.model) != "scalar":
            raise PrefoptError(
                f"{path}: a pairwise model has no score per answer; use judge kind pairwise_model"
            )
        way = way_of_reading(self.tokenizer)
        if way is not None and not hasattr(self.model.config, KIND):
            notice(f"{path}: this reward model has no chat template: {way}; see that it was trained so")
        limit = longest(self.model, self.tokenizer)
        self.max_length = min(max_length or limit, limit)
        self.batch_size = batch_size
        self.about = {
            "model_digest": model_digest(path),
            "template_digest": template_digest(self.tokenizer),
            "max_length": self.max_length,
        }
        self._known: dict[str, float | None] = {}

    def scores(self, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The reward of each row's `completion` to its `prompt`; None where the prompt is too long or refused."""
        from prefopt.models.template import Unfit
        from prefopt.scoring.reward import encode_scalar, read_all

        keys = [
            digest(r["prompt"], r["completion"], r.get("tools"), r.get("chat_template_kwargs")) for r in rows
        ]
        wanted: dict[str, list[int]] = {}
        for key, row in zip(keys, rows, strict=True):
            if key in self._known or key in wanted:
                continue
            try:
                wanted[key] = encode_scalar(
                    self.tokenizer, row, row["completion"] or "", max_length=self.max_length
                )
            except Unfit:
                self._known[key] = None
        found = read_all(self.model, list(wanted.values()), batch_size=self.batch_size)
        self._known.update(zip(wanted, found, strict=True))
        return [self._known[key] for key in keys]


class RewardModelJudge:
    """Compares by the rewards of a scalar model."""

    name = "reward_model"
    both_orders = False
    averages = False
    cacheable = True

    def __init__(self, scorer: RewardScorer, tie_band: float) -> None:
        self.scorer = scorer
        self.tie_band = tie_band

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call; the two rewards stand in `text`."""
        sides = [{**dict(row), "prompt": call.prompt} for call in batch for row in (call.first, call.second)]
        rewards = self.scorer.scores(sides)
        return [self._verdict(rewards[2 * k], rewards[2 * k + 1]) for k in range(len(batch))]

    def _verdict(self, first: float | None, second: float | None) -> Verdict:
        if first is None or second is None:
            return Verdict("missing", text="prompt too long or refused by the chat template")
        p = sigmoid(first - second)
        return Verdict(winner_of(p, self.tie_band), p, f"{first:.6g} {second:.6g}")

    def describe(self) -> dict[str, Any]:
        """Kind, tie band and what the model computes."""
        return {"kind": "reward_model", "tie_band": self.tie_band, **self.scorer.about}


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def model_path(config: PairwiseJudgeConfig) -> Path:
    """The directory of `config.model`.

    Raises:
        PrefoptError: it is not set, or there is no such model.
    """
    from prefopt.models.find import resolve_model

    if config.model is None:
        raise PrefoptError(f"judge {config.kind}: no model; set judge.model to a directory or a hub name")
    return resolve_model(config.model)


def open_judge(config: PairwiseJudgeConfig, context: Context) -> RewardModelJudge:
    """The judge on the reward model `config.model`."""
    scorer = RewardScorer(model_path(config), batch_size=config.batch_size, max_length=config.max_length)
    return RewardModelJudge(scorer, config.tie_band)
