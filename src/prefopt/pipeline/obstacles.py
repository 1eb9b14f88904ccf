"""What cannot work is said before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.recipe import Recipe
from prefopt.rules.selection import find_rule
from prefopt.stages.judge.judge import ADDS as JUDGED
from prefopt.stages.rank.pairs import ADDS as RANKED
from prefopt.stages.rank.pairs import COUNTS
from prefopt.stages.reference.reference_pass import ALL_ADDS as SCORED
from prefopt.stages.train import train
from prefopt.stages.weight.weight import check_scheme
from prefopt.verify import check_ready

if TYPE_CHECKING:
    from prefopt.pipeline.recipe import Recipe

# what rank hands on of the judge's statistics
FROM_JUDGE = {*COUNTS, "n_rejected_class"}


def check_served(arms: Mapping[str, Recipe]) -> None:
    """Raise `PrefoptError`, before anything is computed, where an arm trains a model and a server is to stand for it."""
    for name, arm in arms.items():
        if arm.train is not None and arm.evaluate is not None and arm.evaluate.engine == "server":
            raise PrefoptError(
                f"arm {name!r}: evaluate.engine server answers with its own model, not with the model that is trained; "
                "serve that one afterwards and take prefopt evaluate, or take engine transformers or vllm"
            )


def check_verifiers(arms: Mapping[str, Recipe]) -> None:
    """Raise `PrefoptError`, before anything is computed, where a check of the user's is not where an arm looks for it."""
    for arm in arms.values():
        for stage in (arm.judge, arm.evaluate):
            if stage is not None:
                check_ready(stage.verifier)


def check_losses(arms: Mapping[str, Recipe], kind: str) -> None:
    """Raise `PrefoptError`, before anything is computed, where the data is unpaired and an arm's loss reads pairs."""
    for name, arm in arms.items():
        if kind == "unpaired" and arm.train is not None and arm.train.loss_sum.kind != "unpaired":
            raise PrefoptError(f"arm {name!r}: {train.PAIRS_WANTED}")


def check_columns(arms: Mapping[str, Recipe], kind: str, columns: Collection[str]) -> None:
    """Raise `PrefoptError`, before anything is computed, where a stage will find no column that it reads.

    kind, columns: what the data holds.
    """
    for name, arm in arms.items():
        known = set(columns)
        if kind in ("prompts", "completions"):
            known |= set(RANKED) - FROM_JUDGE
            known |= {*JUDGED, *FROM_JUDGE} if arm.judge is not None else set()
        if arm.weight is not None:
            try:
                check_scheme(known, arm.weight)
            except PrefoptError as error:
                raise PrefoptError(f"arm {name!r}: {error}") from None
        known |= set(SCORED) if arm.reference is not None else set()
        if arm.train is not None and not _has_reference(arm, known):
            raise PrefoptError(
                f"arm {name!r}: train.loss reads reference log-probs, but the stage reference is null and the data has "
                "none; take the stage, a loss without a reference, or train.lora (its base is the reference)"
            )


def reads_no_reference(arm: Recipe) -> bool:
    """Whether an arm trains without a single reference log-prob (supervised fine-tuning, SimPO, ...), so that 04 has no use.

    A store that is named is wanted for itself, and so is the table where nothing is trained.
    """
    if arm.reference is None or arm.train is None or arm.train.loss_sum.needs_reference:
        return False
    made = {*SCORED, "gap_sum", "gap_mean"}
    select, weight = arm.select, arm.weight
    by_score = select is not None and find_rule(select.rule).needs_score
    given = by_score and select is not None and select.score == "column" and select.column not in made
    return not (
        (by_score and not given)
        or (select is not None and select.stratify_by in made)
        or (weight is not None and weight.scheme == "column" and weight.column in made)
        or (
            arm.evaluate is not None
            and arm.evaluate.pair_metric == "reward"
            and "pair_metric" in arm.evaluate.model_fields_set
        )
        or arm.reference.store is not None
    )


def _has_reference(arm: Recipe, columns: Collection[str]) -> bool:
    """Whether training will find reference log-probs, or computes them itself."""
    assert arm.train is not None
    lora = arm.train.lora
    is_live = (lora is not None and lora.keeps_base) or arm.train.sync_reference is not None
    if is_live or not arm.train.loss_sum.needs_reference:
        return True
    roles = ("completion",) if arm.train.loss_sum.kind == "unpaired" else ("chosen", "rejected")
    return all(f"ref_{role}_logps" in columns for role in roles)
