"""What stage 08 cannot have of a server: log-probs, and the model that a run has just trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefopt.core.errors import PrefoptError

if TYPE_CHECKING:
    pass


def check_measurable(rows: int, engine: str) -> None:
    """Raise `PrefoptError` where held-out rows (a number of them) are to be ranked by a server."""
    if rows and engine == "server":
        raise PrefoptError(
            f"evaluate: {rows} held-out rows are ranked by log-probs, which a server does not give; set pairs to none, "
            "and measure them with the model's directory: prefopt evaluate --model DIR"
        )
