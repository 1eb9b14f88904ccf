"""A finished folder put where it belongs in one move: a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefopt.core.errors import PrefoptError


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


@contextmanager
def beside(output: Path) -> Iterator[Path]:
    """A folder on the disk of `output`, gone afterwards.

    Raises:
        PrefoptError: the folder around `output` cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".tmp"))
    except OSError as error:
        raise PrefoptError(
            f"{output.parent}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
