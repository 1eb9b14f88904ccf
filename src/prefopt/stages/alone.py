"""One stage alone, on a file or on another stage's folder: what a verb of the command line does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefopt import __version__
from prefopt.core.errors import PrefoptError
from prefopt.stages.data import data
from prefopt.stages.running import run_stage, way_of
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import digest, file_digest, is_ours
from prefopt.tables.table_rows import read_table


def run_alone(
    stage: Stage, config: Any, source: str, output: Path, context: Context, *, retry_failed: bool = False
) -> StageOutput:
    """One stage on one input (CLI verbs): `source` is a Parquet file, a stage folder or any data the reader knows.

    retry_failed: of a finished stage, ask the rows again that a server gave up on; the others stay as they are.
    """
    is_data = stage.name == "data"
    opened = None if is_data else open_input(source, context)
    input_key = data.source_digest(config) if is_data else _input_key(source)
    folder = StageFolder(output)
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
    way = way_of(folder, key, retry_failed)
    if way == "none":
        if retry_failed:
            print(f"{output}: no failed rows; nothing is asked again", file=sys.stderr)
        manifest = folder.manifest or {}
        return StageOutput(
            folder.table(), manifest.get("dropped", {}), manifest.get("quality", {}), folder.failed
        )
    at_reading = dict(opened.dropped) if opened else {}
    about = {"key": key, "input": input_key, "dropped_at_reading": at_reading}
    table = opened.table if opened else None
    result = run_stage(stage, config, folder, table, context, about, again=way == "again")
    return replace(result, dropped={**at_reading, **result.dropped})


def open_input(source: str, context: Context) -> StageOutput:
    """The table of a Parquet file of ours, of a stage folder, or of any data file the reader knows (with its drops)."""
    path = Path(source)
    if path.is_dir():
        return StageOutput(StageFolder(path).table())
    if path.suffix == ".parquet" and path.is_file() and is_ours(path):
        return StageOutput(read_table(path))
    config = data.DataConfig(path=source, heldout=0.0)
    return data.data(None, config, Context(context.seed, strict=context.strict))


def _input_key(source: str) -> str:
    path = Path(source)
    if path.is_dir():
        return digest(*(file_digest(part) for part in StageFolder(path).parts()))
    return data.source_digest(data.DataConfig(path=source))
