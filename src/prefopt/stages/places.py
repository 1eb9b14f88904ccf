"""What a stage reads, as places on the disk: nothing of it may be, hold or surround the folder that the stage writes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefopt.core.settings import Config
from prefopt.tables.context import Context
from prefopt.tables.ours import check_apart

# settings that name a file or folder -> what it is called in a message
NAMES = {
    "path": "data",
    "model": "model",
    "store": "reference store",
    "prompt": "judge prompt",
    "verdict_cache": "verdict cache",
    "deepspeed": "DeepSpeed configuration",
}
WRITTEN = ("store", "verdict_cache")  # also when they are not there yet


def check_places(
    output: Path,
    config: Config,
    context: Context,
    source: str | Path | None = None,
    own: Collection[Path] = (),
) -> None:
    """Refuse an output folder that is, holds or lies within the input, a model, a store or another file that is read.

    source: the input, where the settings do not name it. own: models that the stage itself keeps in its folder.

    Raises:
        PrefoptError: names both places.
    """
    found = list(_named(config.model_dump()))
    if source is not None and os.path.exists(source):
        found.append(("input", Path(source)))
    if context.model is not None and context.model not in own:
        found += [("model", context.model), *_base(context.model)]
    check_apart(output, found)


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for name, value in settings.items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, Mapping):
                yield from _named(item)
            elif name in NAMES and isinstance(item, str | Path) and (name in WRITTEN or os.path.exists(item)):
                yield NAMES[name], Path(item)


def _base(model: Path) -> list[tuple[str, Path]]:
    """The model that an adapter is of, where it is a folder."""
    try:
        name = json.loads((model / "adapter_config.json").read_text())["base_model_name_or_path"]
        places = [Path(name), model / name] if name else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [("model", place) for place in places if os.path.isdir(place)]
