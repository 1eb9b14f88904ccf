"""Memory that runs out in a stage: one line that names the settings to lower and what they are now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefopt.core.errors import PrefoptError, out_of_memory
from prefopt.core.settings import Config

# settings that hold fewer tokens at a time when lowered, the gentlest first
LOWER = (
    "max_tokens_per_row",
    "pairs_per_micro_batch",
    "batch_tokens",
    "batch_size",
    "max_length",
    "max_new_tokens",
)
# settings that trade time for memory, and what to set
TRADE = (("gradient_checkpointing", "true"), ("activation_offload", "true"), ("lora", "{r: 16}"))


@contextmanager
def memory_told(name: str, config: Config) -> Iterator[None]:
    """Within: work of the stage `name`. Memory that runs out becomes one line.

    Raises:
        PrefoptError: no memory is left, on the CPU or on a GPU.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PrefoptError) or not out_of_memory(error):
            raise
        raise PrefoptError(
            f"{name}: out of memory ({_asked(error)}){_remedy(name, config)}; the work done so far is kept"
        ) from None


def _remedy(name: str, config: Config) -> str:
    lower = list(_settings(name, config))
    trade = [f"{name}.{key}: {value}" for key, value in TRADE if getattr(config, key, True) in (None, False)]
    told = f"; lower {', '.join(lower)}" if lower else "; use a machine with more memory"
    return told + (f", or set {' or '.join(trade)}" if trade else "")


def _settings(name: str, config: Config) -> Iterator[str]:
    """`stage.key (now value)` of each setting that helps; what null means stands in the setting's description."""
    for key in LOWER:
        info = type(config).model_fields.get(key)
        if info is None:
            continue
        value: Any = getattr(config, key)
        default = re.search(r"\(null: ([^)]*)\)", info.description or "") if value is None else None
        shown = f"null: {default.group(1)}" if default else "null" if value is None else str(value)
        yield f"{name}.{key} (now {shown})"
    judge = getattr(config, "judge", None)
    if isinstance(judge, Config):
        yield from _settings(f"{name}.judge", judge)


def _asked(error: Exception) -> str:
    """What the allocator said it was asked for, in a few words."""
    text = " ".join(str(error).split())
    found = re.search(r"[Tt]ried to allocate (?:[\d.]+ \w+)|allocate (?:\d+ bytes|[\d.]+ \w+)", text)
    place = "GPU" if "CUDA" in text or type(error).__name__ == "OutOfMemoryError" else "CPU"
    return f"{place}{': ' + found.group() if found else ''}"
