"""A finished folder put where it belongs in one move: a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def into_place(temporary: Path, target: Path) -> None:
    """Flush every file of `temporary` (on the disk of `target`) and rename it to `target`, which is replaced.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            sync(path)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(temporary, target)


def sync(path: Path) -> None:
    """Bring a file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
