"""Losses found by `prefopt suite discover`: NAME.json is the loss NAME, NAME.md its card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prefopt.losses.loss import Loss
from prefopt.losses.mirror import ROW
from prefopt.losses.mirror_file import load_mirror

FOLDER = Path(__file__).parent
WORDS = {"x": "x", "log_x": "log x", "minus_log_1_minus_x": "(-log(1-x))"}


def rows(folder: Path = FOLDER) -> tuple[Loss, ...]:
    """A row of the loss table per file, in the order of their names.

    Raises:
        PrefoptError: a file that is no mirror loss.
    """
    return tuple(_row(path) for path in sorted(folder.glob("*.json")))


def card(name: str, folder: Path = FOLDER) -> str:
    """What is known of a discovered loss: Markdown, empty where there is no card."""
    path = folder / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _row(path: Path) -> Loss:
    found = load_mirror(path)
    form = found["closed_form"] or {}
    terms = [f"{form[key]:.3g} {word}" for key, word in WORDS.items() if form]
    about = f", phi_inv about {' + '.join(terms)}" if terms else ""
    return dataclasses.replace(
        ROW,
        name=path.stem,
        paper=f"found by evolution on {', '.join(found['provenance'].get('variants', ['?']))} (after 2411.06568)",
        formula=f"{ROW.formula} with learned parts{about}",
        x=found["x"],
        x_free=False,
        defaults={key: found[key] for key in ROW.defaults},
    )
