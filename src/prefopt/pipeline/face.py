"""`prefopt.run`: a recipe on data and models that are named or held in memory, and the finished run as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core import processes
from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import merge
from prefopt.models.given import given_model
from prefopt.pipeline.folder import INPUT, check_run, enter_run
from prefopt.pipeline.recipe import load_recipe
from prefopt.report import write_report
from prefopt.report.load import RunData, load_run, runs_over_seeds
from prefopt.stages.train.settings import TRAINED
from prefopt.tables.foreign import foreign_rows, is_path, write_rows
from prefopt.tables.lock import working_in

if TYPE_CHECKING:
    from datasets import Dataset

DATA, MODEL = "data.jsonl", "model"  # in the folder's `input`


class Run:
    """A finished run. folder: where it lies. Also opens what the command line has made: `prefopt.Run("runs/quickstart")`.

    Raises:
        PrefoptError: no finished run there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._data: RunData = load_run(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says (docs/summary.md)."""
        return self._data.summary

    @property
    def arms(self) -> list[str]:
        """Names of the arms in the recipe's order; the last is the main arm."""
        return list(self.summary["arms"])

    @property
    def report_path(self) -> Path:
        """The report; written anew where it is missing."""
        path = self.folder / "report.html"
        return path if path.is_file() else write_report(self.folder)

    @property
    def model_path(self) -> Path:
        """Directory of the model that the main arm has trained.

        Raises:
            PrefoptError: the recipe trains none.
        """
        return self.model_of(self._data.main)

    def model_of(self, arm: str) -> Path:
        """Directory of the model that an arm has trained.

        Raises:
            PrefoptError: no such arm, or it trains none.
        """
        path = self._stage_folder("train", arm) / TRAINED
        if not path.is_dir():
            raise PrefoptError(f"{path}: no such model; the run's folder is not whole")
        return path

    def table(self, stage: str, arm: str | None = None) -> Dataset:
        """The table of a stage, e.g. "rank", of an arm (the main one unless named; "base" has "evaluate" alone).

        Raises:
            PrefoptError: no such stage or arm in this run.
        """
        from prefopt.tables.folder import StageFolder

        return StageFolder(self._stage_folder(stage, arm or self._data.main)).table()

    @cached_property
    def _folders(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = self.summary["folders"]
        return found

    def _stage_folder(self, stage: str, arm: str) -> Path:
        if arm not in self._folders:
            raise PrefoptError(f"{self.folder}: no arm {arm!r}, {nearest(arm, self._folders)}")
        stages = self._folders[arm]
        if stage not in stages:
            raise PrefoptError(f"{self.folder}: arm {arm!r} has no stage {stage!r}, {nearest(stage, stages)}")
        return self.folder / stages[stage]

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, arms={self.arms})"


class SeedRuns:
    """Finished runs of a recipe with `seeds`. folder: where they lie; runs: seed -> `Run`.

    Raises:
        PrefoptError: no such runs there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        summary = runs_over_seeds(self.folder)
        if summary is None:
            raise PrefoptError(f"{self.folder}: holds no runs over seeds; run a recipe with `seeds` first")
        self.summary: dict[str, Any] = summary
        self.runs = {int(seed): Run(self.folder / place) for seed, place in summary["runs"].items()}

    @property
    def report_path(self) -> Path:
        """The report over seeds; written anew where it is missing."""
        path = self.folder / "report.html"
        return path if path.is_file() else write_report(self.folder)

    def __repr__(self) -> str:
        return f"SeedRuns({str(self.folder)!r}, seeds={list(self.runs)})"


def run(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    data: Any = None,
    model: Any = None,
    callbacks: Sequence[Any] = (),
    strict: bool = False,
    overwrite: bool = False,
    **overrides: Any,
) -> Run | SeedRuns:
    """Run every stage of a recipe, as `prefopt run` does, and write its report. With `seeds` in the recipe: `SeedRuns`.

    recipe: a file, the name of a packaged recipe, or its content. output: the run's folder, `runs/NAME` unless given; the same
    call again continues a run that was stopped. data: a file, a hub name, a Dataset, a DataFrame or a list of dicts.
    model: a directory, a name, a model in memory with its tokenizer (a pair), or without where it was loaded from a
    directory. What is in memory is kept in the folder's `input`. callbacks: of transformers' Trainer, for every training.
    strict: bad rows are errors. overwrite: another recipe's run in the folder is replaced. overrides: settings of the recipe, `seed=1`, `train={"steps": 5}`; or `train__steps=5`.

    Raises:
        PrefoptError: bad input or settings, with the remedy; other things, another run or another process in the folder.
    """
    from prefopt.pipeline.run import run as run_recipe
    from prefopt.pipeline.seeds import run_seeds
    from prefopt.pipeline.sweep import run_sweep

    over = _overrides(overrides)
    if is_path(data):
        over = merge(over, {"data": {"path": str(data)}})
    if is_path(model):
        over["model"] = str(model)
    loaded = load_recipe(recipe, over)
    folder = Path(output) if output is not None else Path("runs") / loaded.name
    if kept := _kept(data, model, folder):
        loaded = load_recipe(recipe, merge(over, kept))
    processes.by_first(lambda: check_run(folder, loaded, overwrite=overwrite))
    with processes.telling(), working_in(folder):

        def enter() -> None:
            enter_run(folder, loaded, check_run(folder, loaded, overwrite=overwrite))
            _keep(data, model, folder)

        processes.by_first(enter)
        run_all: Any = run_sweep if loaded.sweep else run_seeds if loaded.seeds else run_recipe
        run_all(loaded, folder, strict=strict, overwrite=overwrite, callbacks=callbacks)
        processes.by_first(lambda: str(write_report(folder)))
    return SeedRuns(folder) if loaded.seeds else Run(folder)


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as settings: mappings as they are, `train__steps=5` as `{"train": {"steps": 5}}`."""
    plain: dict[str, Any] = {}
    for name, value in given.items():
        tree: Any = value
        for part in reversed(name.split("__")):
            tree = {part: tree}
        plain = merge(plain, tree)
    return plain


def _kept(data: Any, model: Any, folder: Path) -> dict[str, Any]:
    """The settings that name what was given in memory, in the run's folder."""
    kept: dict[str, Any] = {}
    if data is not None and not is_path(data):
        kept["data"] = {"path": str(folder / INPUT / DATA)}
    if model is not None and not is_path(model):
        kept["model"] = str(folder / INPUT / MODEL)
    return kept


def _keep(data: Any, model: Any, folder: Path) -> None:
    """Write what was given in memory into the run's folder."""
    if data is not None and not is_path(data):
        write_rows(foreign_rows(data), folder / INPUT / DATA)
    if model is not None and not is_path(model):
        given_model(model, folder / INPUT / MODEL)
