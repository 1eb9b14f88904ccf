"""Figures of the suite as SVG that stands alone: returns by method and variant, and training over its updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from prefopt.core.ticks import ticks
from prefopt.suite.bench.tables import agents_of

# Okabe and Ito's colours, told apart by the colour-blind; dashes tell them apart in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2")
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; color: #1a1a1a }
text { fill: currentColor } .title { font-weight: 600; font-size: 13px } .axis { fill: none; stroke: #bbb }
.grid { stroke: #e6e6e6 } .agent { stroke: #888; stroke-dasharray: 3 3 } .small { font-size: 11px; opacity: .75 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round } .bar { stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c; color: #e8e8e8 } .axis { stroke: #555 } .grid { stroke: #2b2e34 } .agent { stroke: #999 }
}"""
ROW, LABELS, PANEL, TOP = 19, 112, 236, 44  # pixels
CURVE_WIDTH, CURVE_HEIGHT, CURVE_LEFT = 620, 190, 64
PARTS = {
    "returns": "return",
    "chosen_reward": "log-ratio of winners, nats",
    "loss": "training loss (first tenth of training = 1)",
}


def returns_svg(result: Mapping[str, Any]) -> str:
    """A panel per variant, a row per method: mean over lineages and its 95% t interval; reference and expert dashed."""
    rows = result["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    methods = list(dict.fromkeys(row["loss"] for row in rows))
    agents = {name: found["mean"] for name, found in agents_of(result).items()}
    top = 1.04 * max([row["mean"] + row["half_width"] for row in rows] + list(agents.values()))
    low = min(0.0, *(row["mean"] - row["half_width"] for row in rows))

    def at(value: float) -> float:
        return (PANEL - 20) * (value - low) / (top - low)

    tall = ROW * len(methods)
    body = [
        f'<text x="{LABELS - 8}" y="{TOP + ROW * k + 14}" text-anchor="end">{escape(name)}</text>'
        for k, name in enumerate(methods)
    ]
    for column, variant in enumerate(variants):
        cells = {row["loss"]: row for row in rows if row["variant"] == variant}
        parts = [f'<text class="title" x="0" y="{TOP - 24}">{escape(variant)}</text>']
        for value in ticks(low, top, 4):
            parts.append(f'<path class="grid" d="M{at(value):.1f} {TOP}v{tall}"/>')
            parts.append(_text(at(value), TOP + tall + 15, f"{value:g}"))
        for name, value in agents.items():
            parts.append(f'<path class="agent" d="M{at(value):.1f} {TOP}v{tall}"/>')
            parts.append(_text(at(value), TOP - 6, name))
        for k, method in enumerate(methods):
            if method in cells:
                cell, y = cells[method], TOP + ROW * k + ROW / 2
                half = at(cell["half_width"] + low)
                parts.append(
                    f'<path class="bar" stroke="{COLOURS[0]}" d="M{at(cell["mean"]) - half:.1f} {y:.1f}h{2 * half:.1f}"/>'
                    f'<circle cx="{at(cell["mean"]):.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[0]}"/>'
                )
        parts.append(f'<rect class="axis" x="0" y="{TOP}" width="{PANEL - 20}" height="{tall}"/>')
        body.append(f'<g transform="translate({LABELS + column * PANEL} 0)">{"".join(parts)}</g>')
    title = "Return by method and data variant: mean over lineages, 95% interval"
    return _svg(LABELS + PANEL * len(variants), TOP + tall + 24, title, body)


def curves_svg(curves: Sequence[Mapping[str, Any]]) -> str:
    """Trainings over their updates: return, log-ratio of the winners, loss; mean over lineages, and the lineages thinly."""
    body = []
    for k, curve in enumerate(curves):
        x, y = 20 + (k % 2) * 330, 20 + (k // 2) * 20
        body.append(f'<path class="curve" d="M{x} {y}h34" {_stroke(k)}/>')
        body.append(f'<text x="{x + 42}" y="{y + 4}">{escape(curve_name(curve))}</text>')
    head = 20 * ((len(curves) + 1) // 2) + 20
    for place, (key, label) in enumerate(PARTS.items()):
        lines = [(np.asarray(c["updates"]), _values(c, key)) for c in curves]
        rule = curves[0]["reference_return"] if key == "returns" else None
        panel = _curve_panel(lines, label, rule, last=place == len(PARTS) - 1)
        body.append(f'<g transform="translate(0 {head + place * CURVE_HEIGHT})">{panel}</g>')
    return _svg(CURVE_WIDTH + 80, head + len(PARTS) * CURVE_HEIGHT + 24, "Training over its updates", body)


def curve_name(curve: Mapping[str, Any]) -> str:
    """Method, variant and hyperparameters of a curve."""
    hyper = ", ".join(
        f"{key.split('.')[-1].replace('learning_rate', 'lr')} {v:g}" for key, v in curve["hyper"].items()
    )
    return f"{curve['method']}, {curve['variant']}, {hyper}"


def _values(curve: Mapping[str, Any], key: str) -> np.ndarray:
    """[lineages, updates] of a curve; losses as a share of their first value, since losses have units of their own."""
    values = np.asarray(curve[key])
    return values / values[:, :1] if key == "loss" else values


def _curve_panel(
    lines: Sequence[tuple[np.ndarray, np.ndarray]], label: str, rule: float | None, *, last: bool
) -> str:
    stacked = np.concatenate([values.reshape(-1) for _, values in lines])
    low, high = float(np.min(stacked)), float(np.max(stacked))
    pad = 0.06 * (high - low) or 0.5
    low, high = low - pad, high + pad
    end = max(float(x[-1]) for x, _ in lines)
    tall = CURVE_HEIGHT - 40

    def at_x(x: float) -> float:
        return CURVE_LEFT + CURVE_WIDTH * x / end

    def at_y(y: float) -> float:
        return 20 + tall * (high - y) / (high - low)

    parts = [f'<text class="title" x="{CURVE_LEFT}" y="14">{escape(label)}</text>']
    for value in ticks(low, high, 4):
        parts.append(f'<path class="grid" d="M{CURVE_LEFT} {at_y(value):.1f}h{CURVE_WIDTH}"/>')
        parts.append(_text(CURVE_LEFT - 6, at_y(value) + 4, f"{value:g}", "end"))
    for value in ticks(0.0, end, 6):
        parts.append(_text(at_x(value), 34 + tall, f"{value:g}"))
    if last:
        parts.append(_text(CURVE_LEFT + CURVE_WIDTH / 2, 50 + tall, "update"))
    if rule is not None:
        parts.append(f'<path class="agent" d="M{CURVE_LEFT} {at_y(rule):.1f}h{CURVE_WIDTH}"/>')
        parts.append(_text(CURVE_LEFT + CURVE_WIDTH, at_y(rule) - 4, "reference", "end"))
    parts.append(f'<rect class="axis" x="{CURVE_LEFT}" y="20" width="{CURVE_WIDTH}" height="{tall}"/>')
    for k, (x, values) in enumerate(lines):
        for seed in values:
            parts.append(
                f'<path class="curve" opacity=".25" style="stroke-width:1" d="{_path(x, seed, at_x, at_y)}" {_stroke(k)}/>'
            )
        parts.append(f'<path class="curve" d="{_path(x, values.mean(axis=0), at_x, at_y)}" {_stroke(k)}/>')
    return "".join(parts)


def _path(
    x: np.ndarray, y: np.ndarray, at_x: Callable[[float], float], at_y: Callable[[float], float]
) -> str:
    points = [f"{at_x(a):.1f} {at_y(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return "M" + "L".join(points)


def _stroke(k: int) -> str:
    dash = DASHES[k % len(DASHES)]
    return f'stroke="{COLOURS[k % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}"><title>{title}</title><style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )
