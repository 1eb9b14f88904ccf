"""Artefacts of the suite on disk: a folder per config hash, arrays as safetensors, figures as JSON, a marker when done."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.tables.records import atomic_file, digest, write_json

DONE = "done.json"


def folder_of(root: Path, kind: str, *config: Any) -> Path:
    """root/kind-<hash of the config>; the config itself stands in config.json."""
    folder = root / f"{kind}-{digest(kind, *config)[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", list(config))
    return folder


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Named arrays as safetensors, atomically."""
    from safetensors.numpy import save_file

    with atomic_file(path) as temporary:
        save_file({name: np.array(x, order="C") for name, x in arrays.items()}, temporary)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Raises PrefoptError where the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PrefoptError(f"{path}: cannot be read ({error}); delete its folder and run again") from None


def arrays_hash(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of named arrays: names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {x.dtype.str} {x.shape} ".encode())
        total.update(x.tobytes())
    return total.hexdigest()


def read_json(path: Path) -> Any:
    """The file's value, None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def finish(folder: Path, figures: Mapping[str, Any]) -> None:
    """Writes the figures as the marker of a finished artefact."""
    write_json(folder / DONE, dict(figures))


def finished(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished artefact, else None."""
    return read_json(folder / DONE)


def suite_versions() -> dict[str, str]:
    """Versions of what decides results here."""
    names = ("prefopt", "numpy", "jax", "optax", "mujoco")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
