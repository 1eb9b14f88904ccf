"""Whose file is it: what prefopt wrote is on record with size and digest, and nothing else is removed or replaced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.records import file_digest

Files = Mapping[
    str, Mapping[str, Any]
]  # path within a folder, with slashes -> {"bytes": size, "sha256": hex}
LOCK = ".lock"
MARK = b"prefopt"  # a file that can be replaced says so
SHOWN = 3  # names in a message


def is_scratch(name: str) -> bool:
    """Whether a name is that of a lock or of a file on its way to its place, which a kill may leave (`atomic_file`)."""
    return name in (LOCK, ".DS_Store") or (name.startswith(".") and name.endswith(".tmp"))


def names_in(folder: Path) -> list[str]:
    """What a folder holds, locks and scratch files aside; nothing where there is no folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not is_scratch(name))
    except FileNotFoundError:
        return []


def shown(names: Iterable[str]) -> str:
    """The first few names and how many more there are, for a message."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def files_under(folder: Path, patterns: Iterable[str]) -> Iterator[str]:
    """Paths within `folder` of all files under the top-level names that match; a link to a folder counts as one file."""
    wanted = tuple(patterns)
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if any(fnmatch(name, pattern) for pattern in wanted):
            yield from _walk(folder, folder / name)


def _walk(folder: Path, path: Path) -> Iterator[str]:
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            yield from _walk(folder, inner)
    else:
        yield path.relative_to(folder).as_posix()


def names_left(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Scratch files in a folder that a kill left on their way to names that match."""
    wanted = [f".{pattern}.tmp" for pattern in patterns]
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if any(fnmatch(name, w) for w in wanted) and (folder / name).is_file()]


def is_within(path: str, names: Iterable[str]) -> bool:
    """Whether a path within a folder is one of `names` or lies under one."""
    return any(path == name or path.startswith(f"{name}/") for name in names)


def record(folder: Path, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files by their path within the folder."""
    return {
        path: {"bytes": (folder / path).stat().st_size, "sha256": file_digest(folder / path)}
        for path in sorted(paths)
    }


def damage(folder: Path, files: Files, *, digests: bool = False) -> list[str]:
    """What is wrong with files on record, a phrase each: missing, another size or, if asked for, another content."""
    found = []
    for path, known in files.items():
        try:
            size = (folder / path).stat().st_size
            is_changed = digests and size == known["bytes"] and file_digest(folder / path) != known["sha256"]
        except FileNotFoundError:
            found.append(f"{path} is missing")
        except OSError as error:
            found.append(f"{path} cannot be read ({error.strerror})")
        else:
            if size != known["bytes"]:
                found.append(f"{path} has {size} bytes, not {known['bytes']}")
            elif is_changed:
                found.append(f"{path} has another content than when it was written")
    return found


def remove(folder: Path, paths: Iterable[str]) -> None:
    """Remove files by their path within the folder, then folders that are empty. Nothing beyond a link is touched."""
    parents: set[Path] = set()
    for path in paths:
        place = Path(path)
        if place.is_absolute() or ".." in place.parts:
            continue  # not a record of ours
        above = [folder / parent for parent in place.parents if parent != Path()]
        if any(parent.is_symlink() for parent in above):
            continue
        (folder / place).unlink(missing_ok=True)
        parents.update(above)
    for parent in sorted(parents, key=lambda p: len(p.parts), reverse=True):
        remove_empty(parent)


def remove_tree(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder with all that is in it."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    if folder.is_dir() and not folder.is_symlink() and not os.listdir(folder):
        folder.rmdir()


def check_apart(output: Path, inputs: Iterable[tuple[str, Path]]) -> None:
    """Refuse an output folder that is, holds, or lies within something that is read. Links are followed.

    inputs: what it is called in the message, and where it lies.

    Raises:
        PrefoptError: names both.
    """
    place = _real(output)
    for title, path in inputs:
        other = _real(path)
        if place == other:
            how = "is"
        elif place in other.parents:
            how = "holds"
        elif other in place.parents and not other.is_file():
            how = "lies within"
        else:
            continue
        raise PrefoptError(
            f"--output {output} {how} the {title} ({path}), which must stay as it is; name another folder"
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.expanduser()))


def check_file(path: Path) -> None:
    """Refuse to replace a file that prefopt did not write: its own have the word in them.

    Raises:
        PrefoptError: a folder is there, or a file of somebody else.
    """
    if path.is_dir():
        raise PrefoptError(f"{path}: is a folder; name a file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    if content and MARK not in content:
        raise PrefoptError(f"{path}: exists and was not written by prefopt; remove it or name another file")
