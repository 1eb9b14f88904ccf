"""The folder of a run: which recipe works there, what differs from the last time, and what no longer belongs to it.

`run.json` names the recipe and holds its settings. One folder is for one recipe on one model and data file: others stop
with a line. With other settings the run goes on, and stages whose key is another one are done anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process, notice
from prefopt.core.settings import changed_keys
from prefopt.models.tiny_folder import discard_tiny, is_tiny
from prefopt.pipeline.recipe import Recipe
from prefopt.stages.stage import Stage
from prefopt.tables.lock import RUN_RECORD, RUN_TWIN
from prefopt.tables.ours import check_apart, names_in, remove_empty, shown
from prefopt.tables.owned import read_json
from prefopt.tables.records import write_json

MODEL_FOLDER, TEST_FOLDER = "00-model", "00-test"
SUMMARY, REPORT = "summary.json", "report.html"
INPUT = "input"  # what was given in memory (`prefopt.run`)
# what makes another run of it, since nothing finished could be used again
IDENTITY = ("name", "model", "data.path")
# of what was done before these alone, nothing of worth is lost
FIRST = ("00-data", MODEL_FOLDER)
PLACES = ("", "rounds/*/", "arms/*/", "arms/*/rounds/*/")


def check_run(root: Path, recipe: Recipe, *, overwrite: bool) -> list[str]:
    """Refuse a folder that is not for this recipe; returns the settings that have changed since the run there began.

    Raises:
        PrefoptError: other things are there, or another recipe's finished work and `overwrite` is false.
    """
    if root.exists() and not root.is_dir():
        raise PrefoptError(f"{root}: is a file; name a folder for --output")
    check_apart(root, _inputs(root, recipe))
    there = names_in(root)
    records = (read_json(root / name) or {} for name in (RUN_RECORD, RUN_TWIN))
    before = next(
        (record["settings"] for record in records if isinstance(record.get("settings"), dict)), None
    )
    if before is None:
        if there:
            raise PrefoptError(
                f"{root}: holds other things ({shown(there)}), which stay as they are; name a new or empty folder for "
                "--output"
            )
        return []
    changed = changed_keys(before, _settings(recipe))
    others = [key for key in changed if key in IDENTITY and not _same_place(before, recipe, key)]
    if others and not overwrite and _has_work(root):
        was = ", ".join(
            f"{key} {_value(before, key)!r}, now {_value(_settings(recipe), key)!r}" for key in others
        )
        raise PrefoptError(
            f"{root}: holds another run ({was}; {_count(changed)}); give another --output, or --overwrite to replace it"
        )
    return changed


def enter_run(root: Path, recipe: Recipe, changed: list[str]) -> None:
    """Note in `run.json` which recipe works in the folder, and say what is other than the last time."""
    if not is_first_process():
        return
    if changed and changed != ["about"]:
        notice(f"{root}: settings changed ({shown(changed)}); stages that they concern are done anew")
    record = {"recipe": recipe.name, "settings": _settings(recipe)}
    for name in (RUN_TWIN, RUN_RECORD):
        if read_json(root / name) != record:
            write_json(root / name, record)


def forget_summary(root: Path) -> None:
    """Remove summary and report of the run before, which do not fit what is being made."""
    if is_first_process():
        for name in (SUMMARY, REPORT):
            (root / name).unlink(missing_ok=True)


def remove_stale(root: Path, stages: Mapping[str, Stage], used: Collection[Path], *, tiny: bool) -> None:
    """Remove what stages wrote that are no longer the recipe's (arms, rounds, stages set to null), with a line each."""
    if not is_first_process():
        return
    for path, stage in _stage_folders(root, stages):
        folder = stage.folder(path)
        if path not in used and folder.own_record() is not None:
            _tell(path, folder.discard())
    if not tiny and is_tiny(root / MODEL_FOLDER):
        _tell(root / MODEL_FOLDER, discard_tiny(root / MODEL_FOLDER))
    for path in root.glob("[0-9][0-9]-*.skipped.json"):
        if path not in used:
            path.unlink()  # the stage runs now
    for pattern in ("arms/*/rounds/*", "arms/*/rounds", "arms/*", "arms", "rounds/*", "rounds"):
        for path in root.glob(pattern):
            remove_empty(path)


def _tell(path: Path, left: list[str]) -> None:
    kept = f" ({shown(left)} stay: prefopt did not write them)" if left else ""
    notice(f"{path}: not in this recipe; removed{kept}")


def _stage_folders(root: Path, stages: Mapping[str, Stage]) -> Iterator[tuple[Path, Stage]]:
    names = {stage.folder_name: stage for stage in stages.values()} | {TEST_FOLDER: stages["data"]}
    for place in PLACES:
        for name, stage in names.items():
            for path in sorted(root.glob(f"{place}{name}")):
                yield path, stage


def _has_work(root: Path) -> bool:
    """Whether a stage has finished that took more than reading."""
    manifests = [path for place in PLACES for path in root.glob(f"{place}[0-9][0-9]-*/manifest.json")]
    return any(path.parent.name not in FIRST for path in manifests)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")


def _value(settings: Mapping[str, Any], dotted: str) -> Any:
    value: Any = settings
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _same_place(before: Mapping[str, Any], recipe: Recipe, key: str) -> bool:
    """Whether two spellings mean one file or folder."""
    old, new = _value(before, key), _value(_settings(recipe), key)
    both = isinstance(old, str) and isinstance(new, str) and os.path.exists(old) and os.path.exists(new)
    return both and os.path.realpath(old) == os.path.realpath(new)


def _count(changed: list[str]) -> str:
    return f"{len(changed)} setting{'s differ' if len(changed) > 1 else ' differs'}: {shown(changed)}"


def _inputs(root: Path, recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """What lies outside the run and may not surround it, be it or lie in it."""
    kept = os.path.realpath(root / INPUT)
    paths = recipe.data.path if isinstance(recipe.data.path, list) else [recipe.data.path]
    found = [("data", getattr(path, "path", path)) for path in paths]
    for title, name in [*found, ("model", recipe.model)]:
        is_there = isinstance(name, str) and name != "tiny" and os.path.exists(name)
        if is_there and not Path(os.path.realpath(str(name))).is_relative_to(kept):
            yield title, Path(str(name))
