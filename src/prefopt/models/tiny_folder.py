"""The directory of the smoke model (`prefopt.models.tiny`): its marker holds key, sizes and digests of what was written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import notice
from prefopt.tables.ours import damage, files_under, names_in, record, remove, remove_empty, shown
from prefopt.tables.owned import read_json
from prefopt.tables.records import write_json

MARKER = "tiny.json"


def is_tiny(directory: Path) -> bool:
    """Whether a smoke model lies there."""
    found = read_json(directory / MARKER)
    return found is not None and "key" in found and isinstance(found.get("files"), dict)


def tiny_damage(directory: Path, *, digests: bool = False) -> list[str]:
    """What is wrong with the files of a smoke model, a phrase each."""
    return damage(directory, (read_json(directory / MARKER) or {}).get("files") or {}, digests=digests)


def has_tiny(directory: Path, key: str) -> bool:
    """Whether the smoke model of this key lies there, whole; a line says what is wrong with it otherwise."""
    found = read_json(directory / MARKER)
    if found is None or found.get("key") != key:
        return False
    # a digest too: the model is small, and all that follows is made with it
    if broken := tiny_damage(directory, digests=True):
        notice(f"{directory}: {shown(broken)}; the model is built anew")
        return False
    return True


def mark_tiny(directory: Path, key: str) -> None:
    """Write the marker of a model that is whole."""
    write_json(directory / MARKER, {"key": key, "files": record(directory, files_under(directory, "*"))})


def clear_tiny(directory: Path) -> None:
    """Make room: remove an earlier smoke model (moved aside first, so that a kill leaves no half of it).

    Raises:
        PrefoptError: something else is there, or was put beside the model's files.
    """
    aside = directory.with_name(f".{directory.name}.old.tmp")
    if is_tiny(aside):
        shutil.rmtree(aside)
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not is_tiny(directory):
        raise PrefoptError(f"{directory}: holds something else; choose another --output or remove it")
    files = (read_json(directory / MARKER) or {})["files"]
    if foreign := [path for path in files_under(directory, "*") if path not in files and path != MARKER]:
        raise PrefoptError(
            f"{directory}: holds files that prefopt did not write ({shown(foreign)}); move them elsewhere or choose "
            "another --output"
        )
    os.replace(directory, aside)
    shutil.rmtree(aside)


def discard_tiny(directory: Path) -> list[str]:
    """Remove a smoke model's files; returns what stays, since others put it there."""
    files = (read_json(directory / MARKER) or {}).get("files") or {}
    remove(directory, [*files, MARKER])
    remove_empty(directory)
    return names_in(directory)
