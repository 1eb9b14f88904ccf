"""What work on a table needs besides the table, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.folder import StageFolder

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Context:
    """Everything a stage needs besides its table and settings.

    seed: of the stage. model: directory of the model it runs with. folder: where parts go (None: memory only).
    strict: dropped rows become errors. inputs: further tables by name (for example `before` in evaluate).
    """

    seed: int = 0
    model: Path | None = None
    folder: StageFolder | None = None
    strict: bool = False
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def drop(self, dropped: dict[str, int], reason: str, where: str) -> None:
        """Count a dropped row under `reason`; an error instead when strict."""
        if self.strict:
            raise PrefoptError(f"{where}: {reason} (--strict: rows are not dropped)")
        dropped[reason] = dropped.get(reason, 0) + 1
