"""What cannot work is said before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.recipe import Recipe
from prefopt.stages.train import train

if TYPE_CHECKING:
    from prefopt.pipeline.recipe import Recipe


def check_served(arms: Mapping[str, Recipe]) -> None:
    """Raise `PrefoptError`, before anything is computed, where an arm trains a model and a server is to stand for it."""
    for name, arm in arms.items():
        if arm.train is not None and arm.evaluate is not None and arm.evaluate.engine == "server":
            raise PrefoptError(
                f"arm {name!r}: evaluate.engine server answers with its own model, not with the model that is trained; "
                "serve that one afterwards and take prefopt evaluate, or take engine transformers or vllm"
            )


def check_losses(arms: Mapping[str, Recipe], kind: str) -> None:
    """Raise `PrefoptError`, before anything is computed, where the data is unpaired and an arm's loss reads pairs."""
    for name, arm in arms.items():
        if kind == "unpaired" and arm.train is not None and arm.train.loss_sum.kind != "unpaired":
            raise PrefoptError(f"arm {name!r}: {train.PAIRS_WANTED}")
