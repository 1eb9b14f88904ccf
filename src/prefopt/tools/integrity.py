"""`prefopt verify`: every file on record in a run (or in one stage's folder) against its size and SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefopt.core.errors import PrefoptError
from prefopt.models.tiny_folder import MARKER, is_tiny, tiny_damage
from prefopt.tables.lock import RUN_RECORD, RUN_TWIN, working_in
from prefopt.tables.owned import KEY, MANIFEST, OWNER, OwnedFolder, read_json
from prefopt.tables.progress import progress

SUMMARY = "summary.json"
FOLDERS = ("", "*/", "rounds/*/*/", "arms/*/*/", "arms/*/rounds/*/*/")


@dataclass(frozen=True)
class Verified:
    """What was found: folders looked at, files read, damage (folder -> a phrase per file), and folders still unfinished."""

    folders: int
    files: int
    damaged: dict[str, list[str]]
    unfinished: list[str]


def verify(root: Path) -> Verified:
    """Read every file that a finished stage has on record, and compare size and digest.

    What is damaged is noted in the stage's folder (where that can be written), so that the next `prefopt run` does the
    stage anew; the note goes when all is well again. Files of the wall clock and edited model cards are not on record.

    Raises:
        PrefoptError: no such folder, nothing of prefopt in it, or another process works there.
    """
    if not root.is_dir():
        raise PrefoptError(f"{root}: no such folder; give the folder of a run or of a stage")
    places = list(_places(root))
    if not places and not (root / RUN_RECORD).is_file():
        raise PrefoptError(
            f"{root}: holds nothing that prefopt has on record (no {MANIFEST}); give a run's folder"
        )
    files, damaged, unfinished = 0, {}, []
    with working_in(root), progress("verify", len(places)) as advance:
        for path in places:
            name = path.relative_to(root).as_posix()
            record = read_json(path / (MARKER if is_tiny(path) else MANIFEST))
            if record is None and OwnedFolder(path).lost_manifest():
                damaged[name] = [f"{MANIFEST} is gone or cannot be read"]
            elif record is None:
                unfinished.append(name)
            else:
                files += len(record.get("files") or {})
                if found := _look(path):
                    damaged[name] = found
            advance(1)
        if (root / RUN_RECORD).is_file() and read_json(root / RUN_RECORD) != read_json(root / RUN_TWIN):
            damaged[RUN_RECORD] = [f"does not fit {RUN_TWIN}"]
        for name in _missing(root) - damaged.keys():
            damaged[name] = ["the stage's folder or its manifest is missing"]
    return Verified(len(places), files, damaged, unfinished)


def _places(root: Path) -> Iterator[Path]:
    """Folders of stages, finished or not, and of a smoke model, in order."""
    found = {
        path.parent
        for folder in FOLDERS
        for name in (MANIFEST, KEY, OWNER, MARKER)
        for path in root.glob(f"{folder}{name}")
    }
    yield from sorted(path for path in found if is_tiny(path) or OwnedFolder(path).own_record() is not None)


def _look(path: Path) -> list[str]:
    if is_tiny(path):
        return tiny_damage(path, digests=True)
    folder = OwnedFolder(path)
    found = folder.damage(digests=True)
    with suppress(PrefoptError, OSError):  # read-only: it is said all the same
        folder.mark_damage(found)
    # the next run mends it without doing the stage anew
    return found if found or folder.owner_fits() else [f"{OWNER} does not fit {MANIFEST}"]


def _missing(root: Path) -> set[str]:
    """Folders that the summary names and that are no longer there, or without a manifest."""
    summary = read_json(root / SUMMARY) or {}
    folders = summary.get("folders") or {}
    names = {place for stages in folders.values() for place in stages.values()}
    return {name for name in names if read_json(root / name / MANIFEST) is None}


def verified_lines(root: Path, found: Verified) -> Iterator[str]:
    """What `prefopt verify` prints: a line per damaged file and unfinished stage, then the counts."""
    for name, phrases in found.damaged.items():
        for phrase in phrases:
            yield f"damaged: {root / name}: {phrase}"
    for name in found.unfinished:
        if name not in found.damaged:
            yield f"unfinished: {root / name}"
    count = sum(len(phrases) for phrases in found.damaged.values())
    yield f"{found.folders} folders, {found.files} files, {count} damaged"
    if count:
        yield "the next `prefopt run` of the recipe does the damaged stages anew"
