"""Checkpoints that count only when whole: a `COMPLETE` marker is the last file written.

A checkpoint is the Trainer's folder `checkpoint-STEP` plus `window.safetensors`, the per-row figures that were not yet
logged. Optimizer, scheduler and RNG files are private to the run and read with `weights_only`; `training_args.bin`
(a pickle) is neither written nor read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from prefopt.core.errors import PrefoptError

MARKER = "COMPLETE"
WINDOW = "window.safetensors"
PREFIX = "checkpoint-"


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
    """Bring every file of the checkpoint to the disk, then write the marker."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            _sync(file)
    (path / MARKER).write_text(f"step {step_of(path)}\n", encoding="utf-8")
    _sync(path / MARKER)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(folder: Path, keep: Collection[int]) -> None:
    """Remove checkpoints of all steps but those in `keep`; the marker goes first, so that none is left half there."""
    for path in checkpoints(folder):
        if step_of(path) not in keep:
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
        raise PrefoptError(
            f"{path}: not a complete checkpoint (no {MARKER} marker); give another or start anew"
        )
    return load_file(path / WINDOW)
