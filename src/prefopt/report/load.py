"""A finished run as the report reads it: the summary, and the folders of its stages by arm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, rows_of


@dataclass(frozen=True)
class RunData:
    """A run's folder with its `summary.json`; stages are found by the names that the summary gives."""

    folder: Path
    summary: dict[str, Any]

    @property
    def main(self) -> str:
        """Name of the main arm."""
        return str(self.summary["main"])

    def stage(self, arm: str, name: str) -> StageFolder | None:
        """Folder of a stage of an arm (or of `base`); None when the run has none."""
        place = self.summary["folders"].get(arm, {}).get(name)
        return None if place is None else StageFolder(self.folder / place)

    def manifest(self, arm: str, name: str) -> dict[str, Any]:
        """Manifest of a stage, empty when there is none."""
        found = self.stage(arm, name)
        return (found.manifest or {}) if found else {}

    def quality(self, arm: str, name: str) -> dict[str, Any]:
        """Figures of a stage, empty when there are none."""
        return self.manifest(arm, name).get("quality") or {}

    def rows(self, arm: str, name: str, columns: tuple[str, ...] | None = None) -> list[Row]:
        """Rows of a stage's table with those of `columns` that it has (None: all); no rows where the run has none."""
        found = self.stage(arm, name)
        if found is None or not found.parts():
            return []
        table = found.table()
        if columns is not None:
            table = table.select_columns([c for c in columns if c in table.column_names])
        return rows_of(table)


def load_run(folder: Path) -> RunData:
    """Read a run's folder.

    Raises:
        PrefoptError: no such folder, no finished run in it, or a summary that cannot be read.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PrefoptError(
            f"{folder}: holds no finished run (no summary.json); run `prefopt run RECIPE --output {folder}` first"
        ) from None
    except (OSError, ValueError) as error:
        raise PrefoptError(f"{path}: cannot be read ({error}); run the recipe again") from None
    if isinstance(summary, dict) and "runs" in summary:
        seeds = ", ".join(str(folder / place) for place in summary["runs"].values())
        raise PrefoptError(f"{folder}: holds runs over seeds; give the folder of one of them: {seeds}")
    if not isinstance(summary, dict) or not {"main", "arms", "folders"} <= set(summary):
        raise PrefoptError(f"{path}: is no summary of a run; give the folder of `prefopt run`")
    return RunData(folder, summary)


def runs_over_seeds(folder: Path) -> dict[str, Any] | None:
    """The summary of a recipe with `seeds`; None of a folder that holds none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and "runs" in summary else None
