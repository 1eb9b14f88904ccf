"""One stage alone, on a file or on another stage's folder: what a verb of the command line does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt import __version__
from prefopt.core import processes
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import notice
from prefopt.stages.data import data
from prefopt.stages.data.chat import for_model, in_messages
from prefopt.stages.places import check_places
from prefopt.stages.running import run_stage, stored, way_of
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.lock import working_in
from prefopt.tables.records import digest, file_digest, is_ours
from prefopt.tables.table_rows import read_table

if TYPE_CHECKING:
    from datasets import Dataset


def run_alone(
    stage: Stage,
    config: Any,
    source: str | Opened,
    output: Path,
    context: Context,
    *,
    retry_failed: bool = False,
) -> StageOutput:
    """One stage on one input (CLI verbs): `source` is a Parquet file, a stage folder, any data the reader knows, or a table.

    One process at a time works in `output`, which is new, empty or the same stage's.

    retry_failed: of a finished stage, ask the rows again that a server gave up on; the others stay as they are.

    Raises:
        PrefoptError: bad input, settings or places; another process works there.
    """
    folder = stage.folder(output)
    place = None if isinstance(source, Opened) else source

    def check() -> None:
        check_places(output, config, context, place, [output / name for name in stage.lasting])
        folder.check()

    processes.by_first(check)
    with processes.telling(), working_in(output):
        processes.by_first(folder.check)  # the process before may have left something
        return _run_alone(stage, config, source, folder, context, retry_failed=retry_failed)


def _run_alone(
    stage: Stage,
    config: Any,
    source: str | Opened,
    folder: StageFolder,
    context: Context,
    *,
    retry_failed: bool,
) -> StageOutput:
    is_data = stage.name == "data"
    opened = None if is_data else source if isinstance(source, Opened) else open_input(source, context)
    input_key = opened.key if opened else data.source_digest(config)
    model_key = ""
    if stage.wants_model(config):
        from prefopt.models.load import model_digest

        if context.model is None:
            raise PrefoptError(f"prefopt {stage.name}: no model; give --model DIR")
        model_key = model_digest(context.model)
    settings = config.model_dump(mode="json")
    tests = getattr(config, "data", None)
    test_key = data.source_digest(tests) if tests else ""
    parts = [stage.name, settings, context.seed, context.strict, input_key, test_key, model_key]
    key = digest(*parts, stage.outside(config), __version__)
    way = processes.by_first(lambda: way_of(folder, key, retry_failed))
    if way == "none":
        if retry_failed:
            notice(f"{folder.path}: no failed rows; nothing is asked again")
        return stored(folder)
    at_reading = dict(opened.dropped) if opened else {}
    about = {"key": key, "input": input_key, "dropped_at_reading": at_reading}
    table = opened.table if opened else None
    if table is not None and stage.name in ("sample", "reference") and stage.wants_model(config):
        table = in_messages(table, context.model, stage.name)
    result = run_stage(stage, config, folder, table, context, about, again=way == "again")
    return replace(result, dropped={**at_reading, **result.dropped})


@dataclass(frozen=True)
class Opened:
    """A stage's input: its table, what stands for its content, and rows dropped when it was read, by reason."""

    table: Dataset
    key: str
    dropped: Mapping[str, int] = field(default_factory=dict)


def open_input(source: str, context: Context) -> Opened:
    """The table of a Parquet file of ours, of a stage folder, or of any data file the reader knows."""
    path = Path(source)
    if _is_stage_folder(path):
        folder = StageFolder(path)
        return Opened(folder.table(), digest(*(file_digest(part) for part in folder.parts())))
    config = for_model(data.DataConfig(path=source, heldout=0.0), context.model)
    key = data.source_digest(config)
    if path.suffix == ".parquet" and path.is_file() and is_ours(path):
        return Opened(read_table(path), key)
    read = data.data(None, config, Context(context.seed, strict=context.strict))
    return Opened(read.table, key, read.dropped)


def _is_stage_folder(path: Path) -> bool:
    """A folder of ours, or one that holds nothing that could be read."""
    return path.is_dir() and ((path / "manifest.json").exists() or not any(path.iterdir()))
