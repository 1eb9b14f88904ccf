"""Files elsewhere, by fsspec: `https://`, `s3://`, `gs://`, `hf://` and whatever else has a file system there.

A file is copied once into the cache, under a name that says what it held, and read from there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.tables.records import digest

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_remote(source: str) -> bool:
    """Whether a source is a URL."""
    return _URL.match(source) is not None


def cache_folder() -> Path:
    """Where copies are kept: $PREFOPT_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PREFOPT_CACHE") or Path(home) / "prefopt") / "files"


def fetched(source: str) -> list[tuple[Path, str]]:
    """Copies of the files that a URL (with `*` perhaps) names, each with its own URL, in the order of their names.

    Raises:
        PrefoptError: the file system is not installed, or the file is not to be had.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source)
        paths = sorted(system.glob(path)) if any(c in path for c in "*?[") else [path]
        found = [(_copy(system, each), system.unstrip_protocol(each)) for each in paths]
    except ImportError as error:
        raise PrefoptError(
            f"{source}: {str(error).splitlines()[0]}; install it, or give a file on this machine"
        ) from None
    except PrefoptError:
        raise
    except Exception as error:  # every failure of network and permissions, as one line for the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise PrefoptError(
            f"{source}: cannot be read ({reason}); check address, access and network"
        ) from None
    if not found:
        raise PrefoptError(f"{source}: no file has such a name; check the pattern")
    return found


def _copy(system: Any, path: str) -> Path:
    """The copy of one file; its folder is named by address and version, so that a changed file is fetched anew."""
    target = (
        cache_folder()
        / digest(system.unstrip_protocol(path), system.ukey(path))[:32]
        / (Path(path).name or "data")
    )
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part{os.getpid()}")
        system.get_file(path, str(part))
        os.replace(part, target)
    return target
