"""Recipes of several rounds: each samples from the model that the round before has trained (`rounds: 3`).

Round k samples, judges, ranks, selects, weighs and trains anew, on the same prompts. `reference_model` says whose
log-probs the losses see: `last`, the model that the round starts from, or `fixed`, the recipe's own model in every
round. Earlier rounds lie at `rounds/K/NN-name/`, the last one where a recipe of one round has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.sample.sources import named, sources_of
from prefopt.stages.train.settings import FIXED, TRAINED

if TYPE_CHECKING:
    from prefopt.pipeline.recipe import Recipe
    from prefopt.stages.sample.settings import SampleConfig


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and the model (directory and key) that it starts from."""

    number: int
    model: Path
    model_key: str

    def seed_name(self, stage: str) -> str:
        """What the stage's seed is derived from; the first round's is the stage's name, as without rounds."""
        return stage if self.number == 1 else f"{stage} round {self.number}"


def round_home(home: Path, number: int, rounds: int) -> Path:
    """Where the stages of a round lie within an arm's folder."""
    return home if number == rounds else home / "rounds" / str(number)


def check_rounds(arms: Mapping[str, Recipe], kind: str, columns: Collection[str]) -> None:
    """Refuse, before anything is computed, recipes whose further rounds could not run.

    kind, columns: of the table of stage 00.

    Raises:
        PrefoptError: names the arm, what is in the way, and the remedy.
    """
    for name, arm in arms.items():
        reason = _obstacle(arm, kind, columns) if arm.rounds > 1 else ""
        if reason:
            raise PrefoptError(f"arm {name!r}: rounds: {arm.rounds} cannot run: {reason}")


def _obstacle(arm: Recipe, kind: str, columns: Collection[str]) -> str:
    if kind == "unpaired":
        return "the data is unpaired; give prompts that can be sampled, or set rounds: 1"
    if kind != "prompts" and not arm.resample:
        return (
            f"the data holds {kind}, which are not sampled; set resample: true to sample their prompts from round 2 "
            "on, or rounds: 1"
        )
    missing = [name for name in ("sample", "rank", "train") if getattr(arm, name) is None]
    if missing:
        return f"{missing[0]} is set to null; remove that, or set rounds: 1"
    assert arm.sample is not None
    assert arm.rank is not None
    assert arm.train is not None
    if problem := _unsampled(arm.sample):
        return problem
    if arm.rank.chosen_strategy == "given":
        return "rank.strategy given takes pairs from the file; take verify, score or ipr"
    if arm.rank.chosen_strategy == "verify" and "gold" not in columns:
        return "rank.strategy verify needs gold answers, and the data has none; add a column gold or take ipr"
    if arm.train.lora is not None and not arm.train.lora.merge:
        return "the next round starts from the trained weights; set train.lora.merge: true"
    return ""


def _unsampled(sample: SampleConfig) -> str:
    """Why later rounds would not have the answers of the model that the round before has trained; else empty."""
    if sample.models is None:
        if sample.needs_model:
            return ""
        return (
            f"sample.engine {sample.engine} does not write with the trained model; take transformers or vllm"
        )
    if not sample.needs_model:
        return "sample.models has several models, none of them the trained one; add null to the list"
    try:
        named(sources_of(sample), Path(TRAINED))
    except PrefoptError as error:
        return f"the trained model is named {TRAINED!r}: {error}"
    return ""


def train_inputs(recipe: Recipe, number: int) -> dict[str, Any]:
    """What 07-train is told: that policy and reference differ from the start."""
    return {FIXED: True} if number > 1 and recipe.reference_model == "fixed" else {}
