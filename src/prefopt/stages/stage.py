"""What every stage is made of: its declaration, its folder (parts, manifest, timings), its progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.settings import Config
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.owned import Claims


@dataclass(frozen=True)
class Stage:
    """Declaration of a stage: `run(table, config, context)` reads columns `reads` and gives columns `adds`.

    shares: whether, with these settings, several processes share out its parts; else the first does it all.

    outside: digests of the files that the settings only name (a judge's model, its prompt), so that the work is done
    anew when one of them has changed. files, loose, lasting: what it writes into its folder besides table and timings (see
    `Claims`).
    """

    number: int
    name: str
    config: type[Config]
    run: Callable[[Any, Any, Context], StageOutput]
    reads: tuple[str, ...]
    adds: tuple[str, ...]
    about: str
    needs_model: bool = False
    outside: Callable[[Any], list[str]] = lambda config: []
    shares: Callable[[Any], bool] = lambda config: False
    files: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()

    def wants_model(self, config: Config) -> bool:
        """Whether it needs a model directory with these settings (`config.needs_model`, where that is open)."""
        return self.needs_model and bool(getattr(config, "needs_model", True))

    @property
    def folder_name(self) -> str:
        """Folder of the stage within a run, e.g. `03-rank`."""
        return f"{self.number:02d}-{self.name}"

    def folder(self, path: Path) -> StageFolder:
        """The stage's folder at `path`."""
        return StageFolder(path, Claims(self.name, self.files, self.loose, self.lasting))
