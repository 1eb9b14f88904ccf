"""Checkpoints that count only when whole: a `COMPLETE` marker, the last file written, lists all others.

A checkpoint is the Trainer's folder `checkpoint-STEP` plus `window.safetensors`, the per-row figures that were not yet
logged. `COMPLETE` holds name, size and SHA-256 of every file; a checkpoint whose files are not those any more is left
out, since a resumed run would go on with another optimizer, schedule or random state without a word. Optimizer, scheduler
and RNG files are private to the run and read with `weights_only`; `training_args.bin` (a pickle) is neither written nor
read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefopt.core.errors import PrefoptError, no_space
from prefopt.models.written import sync
from prefopt.tables.records import file_digest

MARKER = "COMPLETE"
WINDOW = "window.safetensors"
PREFIX = "checkpoint-"
STATE = "trainer_state.json"
READERS = 4  # files hashed at a time


def step_of(path: Path) -> int:
    """The optimizer step of a checkpoint folder; -1 for any other name."""
    number = path.name.removeprefix(PREFIX)
    return int(number) if path.name.startswith(PREFIX) and number.isdigit() else -1


def is_complete(path: Path) -> bool:
    """Whether the checkpoint was written to its end."""
    return (path / MARKER).is_file()


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders by step, half-written ones too."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.is_dir() and step_of(path) >= 0]
    return sorted(found, key=step_of)


def last_complete(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, if there is one."""
    whole = [path for path in checkpoints(folder) if is_complete(path)]
    return whole[-1] if whole else None


def remove_incomplete(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in checkpoints(folder):
        if not is_complete(path):
            shutil.rmtree(path)


def mark_complete(path: Path) -> None:
    """Bring every file of the checkpoint to the disk, then write the marker that lists them."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    with ThreadPoolExecutor(READERS) as pool:
        found = dict(
            zip((str(file.relative_to(path)) for file in files), pool.map(_seal, files), strict=True)
        )
    temporary = path / f".{MARKER}.tmp"
    temporary.write_text(
        json.dumps({"step": step_of(path), "files": found}, indent=1) + "\n", encoding="utf-8"
    )
    sync(temporary)
    os.replace(temporary, path / MARKER)
    sync(path)


def _seal(file: Path) -> list[Any]:
    """Size and SHA-256 of a file that is on the disk."""
    sync(file)
    return [file.stat().st_size, file_digest(file)]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint that has its marker, in a few words; None if every file is as it was written.

    Raises:
        PrefoptError: a file cannot be read, for another reason than that it is gone.
    """
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
        files = {str(name): (int(size), str(sha)) for name, (size, sha) in marker["files"].items()}
    except FileNotFoundError:
        return f"no {MARKER} marker"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MARKER} cannot be read"
    if STATE not in files or WINDOW not in files:
        return f"{MARKER} does not list every file"
    with ThreadPoolExecutor(READERS) as pool:
        faults = pool.map(lambda item: _fault(path / item[0], *item[1]), sorted(files.items()))
        return next((fault for fault in faults if fault), None)


def _fault(file: Path, size: int, sha: str) -> str | None:
    try:
        if file.stat().st_size != size:
            return f"{file.name} has {file.stat().st_size} bytes, not {size}"
        return None if file_digest(file) == sha else f"{file.name} has other content than was written"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return f"{file.name} is gone"
    except OSError as error:
        raise PrefoptError(
            f"{file}: cannot be read ({error.strerror}); make it readable, or remove the checkpoint"
        ) from None


def check_whole(path: Path) -> None:
    """Raise unless a checkpoint is as it was written.

    Raises:
        PrefoptError: naming the file that is not.
    """
    fault = damage(path)
    if fault:
        raise PrefoptError(_not_complete(path, fault))


def _not_complete(path: Path, fault: str) -> str:
    return f"{path}: not a complete checkpoint ({fault}); give another or start anew"


def best_step(path: Path) -> int | None:
    """The step of the best evaluation so far, as a checkpoint notes it; None where there was none."""
    try:
        step = json.loads((path / STATE).read_text(encoding="utf-8")).get("best_global_step")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return step or None


def remove_damaged(folder: Path) -> list[str]:
    """Remove complete checkpoints that a run cannot go on from, newest first, until there is one that it can.

    That is one that is as it was written, and so is the checkpoint of the best evaluation that it names. Returns one
    line per removed checkpoint.
    """
    lines = []
    for path in reversed(checkpoints(folder)):
        fault = damage(path)
        best = None if fault else best_step(path)
        if best is not None and best != step_of(path):
            needed = path.with_name(f"{PREFIX}{best}")
            found = damage(needed)
            fault = found and f"{needed.name}, the best so far, is damaged ({found})"
        if not fault:
            break
        lines.append(f"{path}: left out, it is damaged: {fault}")
        _remove(path)
    return lines


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within: a checkpoint is written. When that fails, what there is of it goes, and one line says why.

    Raises:
        PrefoptError: the disk is full, a quota or limit is reached, or the folder is read-only.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save knows RuntimeError only
        reason = no_space(error) or (error.strerror if isinstance(error, OSError) else None)
        if reason is None:
            raise
        shutil.rmtree(path, ignore_errors=True)
        before = last_complete(path.parent)
        start = f"continues from {before.name}" if before else "starts anew"
        raise PrefoptError(
            f"{path}: the checkpoint cannot be written ({reason}); free space on this disk, then run the same "
            f"command again: it {start}"
        ) from None


def prune(folder: Path, keep: Collection[int]) -> None:
    """Remove checkpoints of all steps but those in `keep`; the marker goes first, so that none is left half there."""
    for path in checkpoints(folder):
        if step_of(path) not in keep:
            _remove(path)


def _remove(path: Path) -> None:
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path)


def save_window(path: Path, columns: Mapping[str, Tensor]) -> None:
    """Keep the per-row figures since the last log line, so that a resumed run logs the same line."""
    save_file({name: column.contiguous() for name, column in columns.items()}, path / WINDOW)


def load_window(path: Path) -> dict[str, Tensor]:
    """The per-row figures of `save_window`.

    Raises:
        PrefoptError: the folder is not a complete checkpoint.
    """
    if not is_complete(path):
        raise PrefoptError(_not_complete(path, f"no {MARKER} marker"))
    return load_file(path / WINDOW)
