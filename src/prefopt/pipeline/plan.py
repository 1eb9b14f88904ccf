"""`prefopt run --dry-run`: the way of a run through arms, rounds and stages, where no stage works and nothing is written.

Each stage is looked for under its key, as the run itself does; where it is not done yet, its rows are reckoned from those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.costs import ModelSize, Speed, measure, model_size
from prefopt.pipeline.expected import Expected, counted, expected
from prefopt.pipeline.run import Run, walk
from prefopt.stages.data import data
from prefopt.stages.running import Done, work_key
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.progress import where

if TYPE_CHECKING:
    from datasets import Dataset

    from prefopt.pipeline.recipe import Recipe

UNKNOWN = "not yet known"


@dataclass(frozen=True)
class Step:
    """One stage of the plan. way: reused, goes on (a killed one), or to do; anew: another one lies there and gives way."""

    place: str
    stage: str
    folder: Path
    way: str
    rows: Expected
    config: Any
    anew: bool = False


@dataclass
class Plan:
    """What a run would do, in its order. model: its size, None where it is not on this machine yet; note says why."""

    steps: list[Step] = field(default_factory=list)
    model: ModelSize | None = None
    directory: Path | None = None
    note: str = ""
    speed: Speed | None = None


class _Foreseen(StageFolder):
    """The folder of a stage that is not done: its manifest is what can be known of it."""

    def __init__(
        self, path: Path, rows: Expected, quality: Mapping[str, Any], columns: Sequence[str]
    ) -> None:
        super().__init__(path)
        self.rows = rows
        self.foreseen = {"quality": dict(quality), "columns": list(columns)}
        self.read: Dataset | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """Kind and columns of the data, where it is the stage that reads it."""
        return self.foreseen

    def table(self) -> Dataset:
        """What was read of the data; of other stages no row is there."""
        if self.read is not None:
            return self.read
        from prefopt.tables.records import make_table

        return make_table([], ("id",))


def plan(recipe: Recipe, output: Path, *, strict: bool = False, way: Callable[[Run], object] = walk) -> Plan:
    """Walk the recipe without working. way: through its arms, where it is not a run's own.

    Raises:
        PrefoptError: what would stop the run before anything is computed: bad data, no model, settings that cannot go together.
    """
    found = Plan()
    # without finished work there is nothing to compare keys with: models need not be read for them
    fresh = not any(output.glob("**/manifest.json"))

    def look(
        state: Run,
        stage: Stage,
        config: Any,
        home: Path,
        upstream: Done | None,
        context: Context,
        **more: Any,
    ) -> Done:
        name = more.pop("folder_name", None) or stage.folder_name
        known = replace(stage, outside=lambda config: []) if fresh else stage
        key = work_key(state, known, config, upstream, context, **more)
        if key in state.done:
            return state.done[key]
        folder, way, anew = StageFolder(home / name), "to do", False
        manifest = folder.manifest
        if manifest is not None and manifest.get("key") == key and not folder.damage():
            way, rows = "reused", counted(folder.table())
            done = Done(folder.output_key(key), folder)
        else:
            anew = manifest is not None and not manifest.get("skipped")
            way = "goes on" if folder.running_key == key else "to do"
            done, rows = _foresee(stage, config, folder.path, upstream, context, key)
        if way == "reused" and stage.name == "train":
            rows = _before(upstream)
        found.steps.append(Step(where(), stage.name, folder.path, way, rows, config, anew))
        state.done[key] = done
        return done

    state = Run(root=output, recipe=recipe, strict=strict, work=look, skip=lambda *skipped: None)
    state.find = _on_this_machine
    state.prepare = lambda state, source: _model(state, found, fresh)
    way(state)
    return found


def _foresee(
    stage: Stage, config: Any, path: Path, upstream: Done | None, context: Context, key: str
) -> tuple[Done, Expected]:
    if stage.name == "data":
        read = data.data(None, config, replace(context, folder=None))
        rows = counted(read.table)
        folder = _Foreseen(path, rows, read.quality, read.table.column_names)
        folder.read = read.table
        return Done(key, folder), rows
    prompts = context.inputs.get("prompts")
    rows = expected(stage.name, config, _before(upstream), len(prompts) if prompts is not None else 0)
    before = (upstream.folder.manifest or {}) if upstream else {}
    return Done(key, _Foreseen(path, rows, {"kind": (before.get("quality") or {}).get("kind")}, ())), rows


def _before(upstream: Done | None) -> Expected:
    if upstream is None:
        return Expected()
    folder = upstream.folder
    return folder.rows if isinstance(folder, _Foreseen) else counted(folder.table())


def _model(state: Run, found: Plan, fresh: bool) -> None:
    """The model that is there; what is not, a tiny one or one of the hub, is neither built nor fetched."""
    from prefopt.models.load import model_digest

    name = state.recipe.model
    here = state.root / "00-model"
    state.model_key = UNKNOWN
    if name == "tiny":
        found.note = "model: tiny, about a million parameters, built from the data when the run starts"
        if not (here / "config.json").is_file():
            return
        state.model = here
    else:
        directory = _on_this_machine(name)
        if directory is None:
            found.note = f"model: {name} is not on this machine; the run fetches it from the hub first"
            return
        state.model = directory
    found.directory, found.model = state.model, model_size(state.model)
    if not fresh:
        state.model_key = model_digest(state.model)


def _on_this_machine(name: str) -> Path | None:
    """The model's directory; None where the run would fetch it from the hub."""
    from prefopt.models.find import HUB_NAME, resolve_model

    if not Path(name).expanduser().exists() and not name.startswith("builtin:") and HUB_NAME.fullmatch(name):
        return _from_cache(name)
    return resolve_model(name)


def _from_cache(name: str) -> Path | None:
    from huggingface_hub import snapshot_download

    from prefopt.models.find import HUB_FILES

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=True))
    except (OSError, ValueError):
        return None


def probe(found: Plan) -> None:
    """Measure the model's speed, where it is there and some stage needs it."""
    todo = [
        step
        for step in found.steps
        if step.way != "reused" and step.stage in ("sample", "reference", "train", "evaluate")
    ]
    if found.directory is None or found.model is None or not todo:
        return
    lengths = [step.rows.row_tokens for step in todo if step.rows.row_tokens]
    sizes = [step.config.batch_size for step in todo if step.stage in ("sample", "evaluate")]
    try:
        found.speed = measure(
            found.directory, found.model, int(np.mean(lengths)) if lengths else 256, min(sizes, default=8)
        )
    except (PrefoptError, RuntimeError, ValueError) as error:
        found.note = f"no times: the model could not be tried ({' '.join(str(error).split())[:160]})"
