"""The model card: README.md of a trained model. It says nothing that differs between two equal runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

UNKNOWN = "unknown"


def base_licence(model: Path) -> str:
    """The licence that the base model's own card declares, else "unknown"."""
    try:
        text = (model / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return UNKNOWN
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return UNKNOWN
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return UNKNOWN
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else UNKNOWN


def base_name(model: Path) -> str:
    """`owner/name` of a model in the hub's cache, else the name of its folder."""
    for part in model.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/", 1)
    return model.name


def model_card(
    *,
    base: Path,
    licence: str,
    dataset: str | None,
    losses: list[dict[str, Any]],
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Markdown with the front matter that the hub reads.

    losses: `LossSum.describe()`. settings: the training settings. figures: counts and last metrics by name.
    """
    names = [term["name"] for term in losses]
    front = {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["prefopt", "preference-optimization", *names],
    }
    name = base_name(base)
    if "/" in name:
        front["base_model"] = name
    terms = "\n".join(_term_line(term) for term in losses)
    rows = "\n".join(f"| {key} | {_shown(value)} |" for key, value in figures.items())
    used = "\n".join(f"- {library} {version}" for library, version in versions.items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {name}, preference-optimized

Trained with prefopt from `{name}` on {dataset or "preference pairs"}.

## Loss

{terms}

Each pair's loss is multiplied by its weight; the mean is over the global batch.

## Figures

| figure | value |
|---|---|
{rows}

`logps/*` are sums over answer tokens in nats, `rewards/*` = beta * (logp - reference logp), `eval_*` on held-out pairs.

## Settings

```json
{json.dumps(dict(settings), indent=2, ensure_ascii=False)}
```

## Versions

{used}
"""


def _term_line(term: Mapping[str, Any]) -> str:
    hyper = ", ".join(f"{key} = {_shown(value)}" for key, value in term["hyperparameters"].items())
    scale = "" if term["scale"] == 1.0 else f", scale {_shown(term['scale'])}"
    return f"- `{term['name']}` ({hyper}{scale}; {term['paper']})"


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "\\|")
