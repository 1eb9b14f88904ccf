"""A folder that belongs to one work of prefopt: known by its key or manifest, and nothing in it is removed but its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process
from prefopt.tables.ours import (
    damage,
    files_under,
    is_within,
    names_in,
    names_left,
    record,
    remove,
    remove_empty,
    remove_tree,
    shown,
)
from prefopt.tables.records import write_json

WORK = ".work"
KEY, MANIFEST, DAMAGED = "key.json", "manifest.json", ".damaged.json"
OWNER = ".owner.json"  # whose the files are, where the manifest is lost
PARTS, TIMINGS = "part-*.parquet", "timings.parquet"


@dataclass(frozen=True)
class Claims:
    """The stage that works in a folder, and the names there (files or folders) that are its own.

    files: on record with size and digest when the stage is done. loose: files of the wall clock, or that grow or may be
    edited; no digest. lasting: of both, what outlives changed settings (answers that were paid for).
    """

    stage: str = ""
    files: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()


class OwnedFolder:
    """`key.json` while the work goes on, `manifest.json` when it is done.

    claims: what belongs to the work; nothing else in the folder is ever removed.
    """

    def __init__(self, path: Path, claims: Claims = Claims()) -> None:
        self.path = path
        self.claims = claims

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished stage, else None."""
        return read_json(self.path / MANIFEST)

    def own_record(self) -> dict[str, Any] | None:
        """The key or manifest of this very stage; None in a folder that is new, or somebody else's."""
        for name in (KEY, MANIFEST, OWNER):
            found = read_json(self.path / name)
            if found and "key" in found and self._is_mine(found):
                return found
        return None

    def _is_mine(self, found: Mapping[str, Any]) -> bool:
        return not self.claims.stage or found.get("stage") == self.claims.stage

    def check(self) -> None:
        """Refuse a folder that is neither new nor empty and does not hold this stage's own work.

        Raises:
            PrefoptError: says what is there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise PrefoptError(f"{self.path}: is a file; name a folder for the output")
        there = names_in(self.path)
        if not there or self.own_record() is not None:
            return
        other = (read_json(self.path / MANIFEST) or read_json(self.path / KEY) or {}).get("stage")
        what = f"the work of stage {other!r}" if other else f"other things ({shown(there)})"
        raise PrefoptError(
            f"{self.path}: holds {what}, which stay as they are; name a new or empty folder for the output"
        )

    def _foreign(self) -> list[str]:
        """Files under the stage's own names that the finished stage did not write. What an unfinished one has, is its own."""
        files = self._listed()
        if files is None:
            return []
        mine = files_under(self.path, self._names())
        return [path for path in mine if path not in files and not is_within(path, self._loose)]

    def _listed(self) -> dict[str, Any] | None:
        """The files that the finished stage has on record; None of an unfinished one."""
        for name in (MANIFEST, OWNER):
            files = (read_json(self.path / name) or {}).get("files")
            if isinstance(files, dict):
                return files
        return None

    def lost_manifest(self) -> bool:
        """Whether the stage was finished and its manifest is gone or cannot be read."""
        there = {name: read_json(self.path / name) is not None for name in (KEY, MANIFEST, OWNER)}
        return there[OWNER] and not there[KEY] and not there[MANIFEST]

    @property
    def _loose(self) -> tuple[str, ...]:
        return (TIMINGS, *self.claims.loose)

    def _names(self) -> tuple[str, ...]:
        loose = tuple(name for name in self.claims.loose if "/" not in name)
        listed = {path.split("/")[0] for path in self._listed() or ()}
        return tuple(dict.fromkeys((PARTS, TIMINGS, *self.claims.files, *loose, *sorted(listed))))

    def begin(self, key: str) -> None:
        """Keep the parts of a killed run with the same key; clear what another key left.

        Of several processes (torchrun) only the first writes.

        Raises:
            PrefoptError: the folder is somebody else's, or holds files of somebody else where the stage writes.
        """
        if not is_first_process():
            return
        self.check()
        state = read_json(self.path / KEY) or {}
        if state.get("key") == key and not state.get("clearing"):
            (self.path / MANIFEST).unlink(missing_ok=True)
            return
        mine: dict[str, Any] = {"stage": self.claims.stage, "key": key}
        if self.own_record() is not None:
            self._refuse_foreign()
            # so that a kill in the middle leaves a folder that is known as ours, and known as half-cleared
            write_json(self.path / KEY, {**mine, "clearing": True})
            self.clear()
        write_json(self.path / KEY, mine)

    def claim(self) -> None:
        """Make a new or empty folder known as this stage's, before its key is known."""
        self.check()
        if is_first_process() and self.own_record() is None:
            write_json(self.path / KEY, {"stage": self.claims.stage, "key": ""})

    def close(self) -> None:
        """The end of a work that is no stage of a run: a manifest with what was written."""
        key = (read_json(self.path / KEY) or {}).get("key")
        files = self.written()
        self.own(self.claims.stage, key, files)
        write_json(self.path / MANIFEST, {"stage": self.claims.stage, "key": key, "files": files})
        (self.path / KEY).unlink(missing_ok=True)

    def own(self, stage: str, key: Any, files: dict[str, dict[str, Any]]) -> None:
        """Note beside the manifest whose the files are, so that they can be done anew if it is lost."""
        write_json(self.path / OWNER, {"stage": stage, "key": key, "files": files})

    def owner_fits(self) -> bool:
        """Whether that note says what the manifest says."""
        manifest, owner = self.manifest or {}, read_json(self.path / OWNER) or {}
        return all(owner.get(name) == manifest.get(name) for name in ("stage", "key", "files"))

    def _refuse_foreign(self) -> None:
        if foreign := self._foreign():
            raise PrefoptError(
                f"{self.path}: holds files that prefopt did not write ({shown(foreign)}) where the stage writes; move "
                "them elsewhere or name another folder"
            )

    def clear(self, *, lasting: bool = False) -> None:
        """Remove the stage's own files (parts, manifest, timings, model, checkpoints); others stay.

        Of a finished stage these are the files on its manifest's record; of an unfinished one, all under its names.
        lasting: those that outlive changed settings, too.
        """
        keep = () if lasting else self.claims.lasting
        files = self._listed()
        mine = set(files_under(self.path, self._names()))
        if files is not None:
            mine = {path for path in mine if path in files or is_within(path, self._loose)}
        remove(self.path, sorted(path for path in mine if not is_within(path, keep)))
        for name in names_left(self.path, self._names()):
            (self.path / name).unlink()
        remove_tree(self.path / WORK)
        (self.path / DAMAGED).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)
        (self.path / OWNER).unlink(missing_ok=True)

    def discard(self) -> list[str]:
        """Remove all that the stage wrote, and the folder if nothing else is in it; returns what stays."""
        if self.own_record() is None:
            return names_in(self.path)
        self.clear(lasting=True)
        (self.path / KEY).unlink(missing_ok=True)
        remove_empty(self.path)
        return names_in(self.path)

    def damage(self, *, digests: bool = False) -> list[str]:
        """What is wrong with the files of the finished stage, a phrase each. digests: their content is read, too."""
        files = (self.manifest or {}).get("files")
        found = damage(self.path, files, digests=digests) if isinstance(files, dict) else []
        marked = [] if digests else (read_json(self.path / DAMAGED) or {}).get("found", [])
        return found or marked

    def mark_damage(self, found: Sequence[str]) -> None:
        """Note what a look at the digests has found, so that the next run does the stage anew; or that all is well."""
        if found:
            write_json(self.path / DAMAGED, {"found": list(found)})
        else:
            (self.path / DAMAGED).unlink(missing_ok=True)

    def written(self) -> dict[str, dict[str, Any]]:
        """Size and digest of all that the stage wrote; times of the wall clock have none, so that equal work is equal."""
        mine = files_under(self.path, self._names())
        return record(self.path, (path for path in mine if not is_within(path, self._loose)))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is none, or none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
