"""The file of answers while training (`samples.jsonl`), and whose prompts are answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefopt.tables.records import Row

SAMPLES = "samples.jsonl"  # within 07-train


def chosen_prompts(rows: Iterable[Row], count: int) -> list[Row]:
    """`count` held-out prompts (of training, where none are held out) by a hash of their names, each once."""
    first: dict[bool, dict[str, Row]] = {True: {}, False: {}}
    for row in rows:
        first[row.get("split") == "eval"].setdefault(str(row.get("prompt_id")), row)
    found = first[True] or first[False]
    names = sorted(found, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
    return [found[name] for name in names[:count]]


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of the file; none where there is no file, and not what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.split("\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, Mapping) and isinstance(value.get("step"), int):
            found.append(dict(value))
    return found
