"""Versions of what decides results."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from prefopt import __version__

if TYPE_CHECKING:
    pass


LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
)


def versions() -> dict[str, str]:
    """Versions of prefopt, Python and the libraries that decide results."""
    found = {"prefopt": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
