"""What stage 08 cannot have of a server: log-probs, and the model that a run has just trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefopt.core.errors import PrefoptError

if TYPE_CHECKING:
    from prefopt.pipeline.recipe import Recipe


def check_measurable(rows: int, engine: str) -> None:
    """Raise `PrefoptError` where held-out rows (a number of them) are to be ranked by a server."""
    if rows and engine == "server":
        raise PrefoptError(
            f"evaluate: {rows} held-out rows are ranked by log-probs, which a server does not give; set pairs to none, "
            "and measure them with the model's directory: prefopt evaluate --model DIR"
        )


def check_served(arms: Mapping[str, Recipe]) -> None:
    """Raise `PrefoptError`, before anything is computed, where an arm trains a model and a server is to stand for it."""
    for name, arm in arms.items():
        if arm.train is not None and arm.evaluate is not None and arm.evaluate.engine == "server":
            raise PrefoptError(
                f"arm {name!r}: evaluate.engine server answers with its own model, not with the model that is trained; "
                "serve that one afterwards and take prefopt evaluate, or take engine transformers or vllm"
            )
