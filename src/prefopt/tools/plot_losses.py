"""`prefopt losses plot`: value and slope of losses against the margin, and the parts of mirror losses, as one SVG.

The file stands alone: no script, no font, no other file. Light and dark follow the viewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.core.ticks import ticks
from prefopt.losses import mirror
from prefopt.losses.curves import curve
from prefopt.losses.recipe import SHORTHANDS, Term, build_loss
from prefopt.losses.table import find_loss

# Okabe and Ito's colours, told apart by the colour-blind; dashes tell them apart in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 430, 250, 58, 34, 14, 44
POINTS = 401
# known losses as members of the mirror class (docs/losses.md), drawn beside mirror losses
FORMS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "dpo": lambda h: {"phi_inv": "negative_entropy", "psi": "none", "g": {"name": "logistic", "beta": h["beta"]}},
    "orpo": lambda h: {"phi_inv": "log_odds", "psi": "log", "g": {"name": "logistic", "beta": 1.0}},
    "simpo": lambda h: {"phi_inv": "negative_entropy", "psi": "none",
                        "g": {"name": "logistic", "beta": h["beta"], "gamma": h["gamma"]}},
    "mirror": lambda h: {part: h[part] for part in ("phi_inv", "psi", "g")},
}  # fmt: skip
SUMMED = 60.0  # nats: margins from -SUMMED to SUMMED; beta .1 makes that -6 ... 6 inside the sigmoid
PER_TOKEN = 3.0  # nats per token, for losses of means
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; color: #1a1a1a }
text { fill: currentColor } .title { font-weight: 600; font-size: 13px } .axis { fill: none; stroke: #bbb }
.grid { stroke: #e6e6e6 } .zero { stroke: #999 } .small { font-size: 11px; opacity: .75 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; color: #e8e8e8 } .axis { stroke: #555 } .grid { stroke: #2b2e34 } .zero { stroke: #777 }
}"""


@dataclass(frozen=True)
class Line:
    """One curve: name, points, and which colour."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int


@dataclass(frozen=True)
class Panel:
    """Curves on common axes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


def plot_losses(names: Sequence[str], files: Sequence[Path] = ()) -> str:
    """SVG of losses by name (or shorthand), and of mirror losses from exported files.

    Raises:
        PrefoptError: no loss, more than there are colours, an unknown name, a loss without a margin (nll), a bad file.
    """
    if not 0 < len(names) + len(files) <= len(COLOURS):
        raise PrefoptError(f"losses plot: give 1 to {len(COLOURS)} losses, not {len(names) + len(files)}")
    specs: dict[str, dict[str, Any]] = {name: {"name": name} for name in names}
    specs |= {path.stem: {"name": "mirror", "file": str(path)} for path in files}
    for name in names:
        if name not in SHORTHANDS:
            find_loss(name)
    return draw(panels(specs), list(specs))


def panels(specs: dict[str, dict[str, Any]]) -> list[Panel]:
    """Value and slope, once for losses of sums and once for losses of means; then the mirror parts."""
    terms = {name: build_loss({"scale": 1.0, **spec}).terms[0] for name, spec in specs.items()}
    order = {name: k for k, name in enumerate(specs)}
    found: list[Panel] = []
    for x, span, unit in (("sum", SUMMED, "nats"), ("mean", PER_TOKEN, "nats per token")):
        mine = [name for name, term in terms.items() if term.loss.x == x]
        margins = np.linspace(-span, span, POINTS)
        both = {name: curve(specs[name], margins) for name in mine}
        for k, what in enumerate(("loss", "slope d loss / d margin")):
            lines = tuple(Line(name, margins, values[k], order[name]) for name, values in both.items())
            found += [Panel(what, f"margin h, {unit}", "", lines)] if lines else []
    if not any(term.loss.name == "mirror" for term in terms.values()):
        return found
    return found + mirror_panels(
        {name: term for name, term in terms.items() if term.loss.name in FORMS}, order
    )


def mirror_panels(terms: dict[str, Term], order: dict[str, int]) -> list[Panel]:
    """phi_inv and psi against x, g against u, halfway through training."""
    forms = {name: FORMS[term.loss.name](term.hyper) for name, term in terms.items()}
    x, u = np.linspace(0.005, 0.995, POINTS), np.linspace(-4.0, 4.0, POINTS)
    at_x = (np.log(x), np.asarray(0.5))
    parts = (
        ("phi_inv(x)", "phi_inv", mirror.MAPS, at_x, x, "x, likelihood per token"),
        ("psi(x)", "psi", mirror.PSIS, at_x, x, "x, likelihood per token"),
        ("g(u)", "g", mirror.SHAPES, (u,), u, "u, difference of phi_inv"),
    )
    found = []
    for title, key, functions, given, shown, label in parts:
        lines = tuple(
            Line(name, shown, np.asarray(mirror.apply(functions, form[key], *given)) + 0 * shown, order[name])
            for name, form in forms.items()
        )
        found.append(Panel(title, label, "", lines))
    return found


def draw(found: Sequence[Panel], names: Sequence[str]) -> str:
    """The panels two in a row under a legend."""
    rows = math.ceil(len(found) / 2)
    legend = 22 * math.ceil(len(names) / 4) + 16
    width, height = 2 * WIDTH + 10, legend + rows * HEIGHT + 6
    body = [_legend(names)]
    for k, panel in enumerate(found):
        body.append(
            f'<g transform="translate({(k % 2) * (WIDTH + 10)} {legend + (k // 2) * HEIGHT})">{_panel(panel)}</g>'
        )
    title = escape(f"Preference losses: {', '.join(names)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}"><title>{title}</title><style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n<!-- prefopt -->\n"
    )


def _legend(names: Sequence[str]) -> str:
    parts = []
    for k, name in enumerate(names):
        x, y = 20 + (k % 4) * 212, 20 + (k // 4) * 22
        parts.append(
            f'<path class="curve" d="M{x} {y}h34" {_stroke(k)}/><text x="{x + 42}" y="{y + 4}">{escape(name)}</text>'
        )
    return "".join(parts)


def _stroke(k: int) -> str:
    dash = f' stroke-dasharray="{DASHES[k]}"' if DASHES[k] else ""
    return f'stroke="{COLOURS[k]}"{dash}'


def _limits(panel: Panel) -> tuple[float, float]:
    """Range of y: all values, without the outer 2% where a curve runs away, and never empty."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in panel.lines])
    low, high = (float(v) for v in np.percentile(values, (2, 98)))
    pad = 0.08 * (high - low) or 0.5
    return low - pad, high + pad


def _panel(panel: Panel) -> str:
    low, high = _limits(panel)
    start, end = float(panel.lines[0].x[0]), float(panel.lines[0].x[-1])
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(x: float) -> float:
        return LEFT + wide * (x - start) / (end - start)

    def at_y(y: float) -> float:
        return TOP + tall * (high - y) / (high - low)

    clip = _name(panel)
    parts = [f'<text class="title" x="{LEFT}" y="20">{escape(panel.title)}</text>']
    parts.append(
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{wide}" height="{tall}"/></clipPath>'
    )
    for value in ticks(low, high, 5):
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{LEFT} {at_y(value):.1f}h{wide}"/>')
        parts.append(
            f'<text class="small" x="{LEFT - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(start, end, 6):
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{at_x(value):.1f} {TOP}v{tall}"/>')
        parts.append(
            f'<text class="small" x="{at_x(value):.1f}" y="{TOP + tall + 16}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(
        f'<text class="small" x="{LEFT + wide / 2}" y="{TOP + tall + 34}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    parts.append(f'<rect class="axis" x="{LEFT}" y="{TOP}" width="{wide}" height="{tall}"/>')
    for line in panel.lines:
        parts.append(
            f'<path class="curve" clip-path="url(#{clip})" d="{_path(line, at_x, at_y, (low, high))}" {_stroke(line.colour)}/>'
        )
    return "".join(parts)


def _name(panel: Panel) -> str:
    """An id of the panel for its clip."""
    return "".join(c for c in f"{panel.title}-{panel.x_label}" if c.isalnum())


def _path(line: Line, at_x: Any, at_y: Any, limits: tuple[float, float]) -> str:
    """M and L commands; far outside the frame values are held just beyond it, and gaps stay gaps."""
    low, high = limits
    reach = high - low
    words, pen = [], "M"
    for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        words.append(f"{pen}{at_x(x):.1f} {at_y(min(max(y, low - reach), high + reach)):.1f}")
        pen = "L"
    return "".join(words)
