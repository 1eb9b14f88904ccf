"""A folder of work: Parquet parts as they come, its key while it runs, manifest and timings when it is done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core import processes
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process, notice
from prefopt.tables.ours import is_within, remove_tree, shown
from prefopt.tables.owned import DAMAGED, KEY, MANIFEST, TIMINGS, WORK, Claims, OwnedFolder, read_json
from prefopt.tables.progress import progress
from prefopt.tables.records import Row, digest, file_digest, make_table, rows_of, write_json, write_table
from prefopt.tables.table_rows import read_table
from prefopt.tables.versions import versions

if TYPE_CHECKING:
    from datasets import Dataset


class StageFolder(OwnedFolder):
    """A stage's folder: Parquet parts, `key.json` while it runs, `manifest.json` when done, `timings.parquet`.

    claims: what belongs to the stage; nothing else in the folder is ever removed.
    """

    def __init__(self, path: Path, claims: Claims = Claims()) -> None:
        super().__init__(path, claims)
        self.timings: list[Row] = []

    @property
    def running_key(self) -> str:
        """The key of the stage while it runs; empty outside a run."""
        return str((read_json(self.path / KEY) or {}).get("key") or "")

    @property
    def failed(self) -> int:
        """Rows of the finished stage that may be asked again (`StageOutput.failed`)."""
        return int((self.manifest or {}).get("failed") or 0)

    def output_key(self, key: str) -> str:
        """What later stages take as the key of their input: `key`, until asking failed rows again has changed the table."""
        if not (self.manifest or {}).get("retried"):
            return key
        return digest(key, *(file_digest(part) for part in self.parts()))

    def finished(self, key: str) -> bool:
        """Whether the stage ended with exactly this key (settings, inputs, seed); if so, nothing unfinished stays.

        A stage of which something is gone or cut does not count; a line says what.
        """
        manifest = self.manifest
        if self.lost_manifest():
            notice(f"{self.path}: {MANIFEST} is gone or cannot be read; the stage is done anew")
        if manifest is None or manifest.get("key") != key:
            return False
        if broken := self.damage():
            notice(f"{self.path}: {shown(broken)}; the stage is done anew")
            return False
        if is_first_process() and not self.owner_fits():
            with suppress(PrefoptError):  # read-only: it is looked at as it is
                self.own(manifest.get("stage", ""), key, manifest.get("files") or {})
        self._tidy()
        return True

    def _tidy(self) -> None:
        if (self.path / KEY).exists():  # a finished stage may lie on a read-only disk
            (self.path / KEY).unlink()
        # while rows are failed the answers that came are kept, so that those rows alone can be asked again
        if not self.failed:
            shutil.rmtree(self.path / WORK, ignore_errors=True)

    def reopen(self, key: str) -> None:
        """Go back into a finished stage for its failed rows. Table and manifest stay until it has finished anew.

        Raises:
            PrefoptError: the answers that came are no longer there.
        """
        if not (self.path / WORK).is_dir():
            raise PrefoptError(
                f"{self.path}: the answers kept in {WORK} are gone, so that all rows would be asked again; for that remove "
                "the folder and leave --retry-failed out"
            )
        manifest = self.manifest or {}
        counts = {name: int(manifest.get(name) or 0) for name in ("failed", "retried")}
        write_json(self.path / KEY, {"stage": self.claims.stage, "key": key, **counts})

    def work_part(self, label: str, index: int) -> Path:
        """Where unfinished work on part `index` of the pass `label` is kept until the stage is done."""
        return self.path / WORK / label.replace(" ", "-") / f"part-{index:05d}.parquet"

    def parts(self) -> list[Path]:
        """The parts in order."""
        return sorted(self.path.glob("part-*.parquet"))

    def table(self) -> Dataset:
        """The stage's table, all parts together.

        Raises:
            PrefoptError: there is no part.
        """
        parts = self.parts()
        if not parts:
            raise PrefoptError(
                f"{self.path}: holds no table (part-*.parquet); give the folder of a finished stage"
            )
        return read_table(parts)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note the wall-clock seconds of the block under `what` (kept apart from the tables)."""
        start = time.perf_counter()
        yield
        self.timings.append({"what": what, "seconds": time.perf_counter() - start})

    def finish(self, stage: str, output: StageOutput, about: Mapping[str, Any]) -> None:
        """Write the table, the timings and, last, the manifest; then the kept work parts go."""
        if not is_first_process():
            return
        before = read_json(self.path / KEY) or {}  # of a stage that was reopened
        retried = int(before.get("retried") or 0) + (output.failed < int(before.get("failed") or 0))
        # never one that does not fit the table: a kill before the new one leaves a stage that goes on from its kept parts
        (self.path / MANIFEST).unlink(missing_ok=True)
        write_table(output.table, self.path / "part-00000.parquet")
        write_table(make_table(self.timings), self.path / TIMINGS)
        files = self.written()
        self.own(stage, about.get("key"), files)
        write_json(self.path / MANIFEST, {
            "stage": stage,
            **about,
            "versions": versions(),
            "rows_out": output.table.num_rows,
            "dropped": dict(sorted(output.dropped.items())),
            **({"failed": output.failed} if output.failed else {}),
            **({"retried": retried} if retried else {}),
            "columns": output.table.column_names,
            "quality": dict(output.quality),
            "files": files,
        })  # fmt: skip
        (self.path / DAMAGED).unlink(missing_ok=True)
        self._tidy()

    def release(self, name: str) -> None:
        """Remove a file or folder of the finished stage that nobody needs any longer; the stage stays finished."""
        manifest = self.manifest
        if manifest is None or not is_first_process():
            return
        if name not in manifest.get("released", ()):
            files = {
                path: known
                for path, known in (manifest.get("files") or {}).items()
                if not is_within(path, [name])
            }
            self.own(manifest.get("stage", ""), manifest.get("key"), files)
            write_json(
                self.path / MANIFEST,
                {**manifest, "files": files, "released": [*manifest.get("released", ()), name]},
            )
        remove_tree(self.path / name)  # again where a kill came between

    @property
    def released(self) -> bool:
        """Whether something of the finished stage was removed as no longer needed."""
        return bool((self.manifest or {}).get("released"))


def map_parts(
    rows: Sequence[Row],
    work: Callable[[Sequence[Row], int], list[Row]],
    *,
    folder: StageFolder | None,
    part_rows: int,
    label: str,
) -> list[Row]:
    """Apply `work(chunk, start_index)` to chunks of `part_rows` rows, each stored as soon as it is done.

    Chunks are cut by row index alone, so a killed run that continues gives the same rows. `label` names the pass
    (unique within a stage) and its progress bar.
    """
    parts = iter_parts(rows, work, folder=folder, part_rows=part_rows, label=label)
    return [row for part in parts for row in part]


def iter_parts(
    rows: Sequence[Row],
    work: Callable[[Sequence[Row], int], list[Row]],
    *,
    folder: StageFolder | None,
    part_rows: int,
    label: str,
) -> Iterator[list[Row]]:
    """`map_parts`, chunk by chunk. In a stage that is shared out each process makes its own, then all read all."""
    if folder is not None and processes.shares():
        yield from _shared_parts(rows, work, folder, part_rows, label)
        return
    with progress(label, len(rows)) as advance:
        for index, start in enumerate(range(0, len(rows), part_rows)):
            path = folder.work_part(label, index) if folder else None
            if path is not None and path.exists():
                yield rows_of(read_table(path))
            elif folder is None or path is None:
                yield work(rows[start : start + part_rows], start)
            else:
                with folder.timed(f"{label} {index}"):
                    result = work(rows[start : start + part_rows], start)
                write_table(make_table(result), path)
                yield result
            advance(min(part_rows, len(rows) - start))


def _shared_parts(
    rows: Sequence[Row],
    work: Callable[[Sequence[Row], int], list[Row]],
    folder: StageFolder,
    part_rows: int,
    label: str,
) -> Iterator[list[Row]]:
    parts = [(folder.work_part(label, n), start) for n, start in enumerate(range(0, len(rows), part_rows))]
    mine = [part for index, part in enumerate(parts) if processes.is_mine(index)]
    with progress(label, sum(min(part_rows, len(rows) - start) for _, start in mine)) as advance:
        for path, start in mine:
            if not path.exists():
                with folder.timed(f"{label} {start // part_rows}"):
                    result = work(rows[start : start + part_rows], start)
                write_table(make_table(result), path)
            advance(min(part_rows, len(rows) - start))
    processes.meet()
    for path, _ in parts:
        yield rows_of(read_table(path))


@dataclass(frozen=True)
class StageOutput:
    """What a stage gives back: the table, rows dropped by reason, and figures for manifest and report.

    failed: how many of the dropped rows may come when they are asked again (a server gave up on them).
    """

    table: Dataset
    dropped: Mapping[str, int] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    failed: int = 0
