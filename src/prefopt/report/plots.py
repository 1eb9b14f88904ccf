"""Geometry of the figures: values -> positions. The markup is in `figures.html.j2`, the colours in `style.css`.

Figures are inline SVG whose x positions are percentages and whose heights are fixed pixels, so that they fill any
width without scaling their text; curves are drawn in a stretched box of 1000 units. `kind` is a CSS class that gives
the colour: `k0` the main arm, `k1`... the others, `kb` the base model, `kept`, `dropped`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefopt.core.ticks import ticks
from prefopt.report.text import number, percent, percent_interval

WIDE = 1000  # units of the stretched box that holds the curves
MOST_POINTS = 300  # per curve; longer histories are averaged in equal stretches


@dataclass(frozen=True)
class Tick:
    """A labelled position: percent along x, or pixels from the top along y."""

    at: float
    label: str


@dataclass(frozen=True)
class Rung:
    """One arm of an interval figure: mean and 95% interval, positions in percent, texts ready."""

    name: str
    kind: str
    value: str
    interval: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Ladder:
    """Means with intervals on one scale."""

    rungs: list[Rung]
    ticks: list[Tick]
    label: str


@dataclass(frozen=True)
class Bar:
    """A stacked piece of a bar: x and width in percent, y and height in pixels."""

    x: float
    width: float
    y: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Bars:
    """A histogram, pieces of a bar stacked; `cut` in percent with its label."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    height: int
    label: str
    cuts: list[Tick] = field(default_factory=list)


@dataclass(frozen=True)
class Series:
    """One curve: values over steps. `held_out` is drawn as circles, `dashed` with dashes."""

    name: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    held_out: bool = False


@dataclass(frozen=True)
class Curve:
    """A drawn series: SVG paths (raw and smoothed), circles as (percent, pixels), readings for the pointer."""

    series: Series
    raw: str
    smooth: str
    circles: list[tuple[float, float]]
    readings: list[tuple[float, str, str]]  # x in percent, step, value


@dataclass(frozen=True)
class Lines:
    """Curves on common axes."""

    title: str
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: float | None
    height: int
    label: str


def tick_label(value: float, step: float) -> str:
    """A tick's label with the decimals that its spacing needs."""
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:,.{places}f}".replace("-", "\u2212")


def _labels(values: Sequence[float]) -> list[str]:
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    return [tick_label(value, step) for value in values]


def ladder(rows: Sequence[tuple[str, str, float, float | None, float | None]], label: str) -> Ladder:
    """Rows of (name, kind, mean, low, high), shares in 0..1, to a figure whose scale spans what is shown.

    low, high: None where there is no interval; the dot stands alone then.
    """
    known = [
        (mean, mean if low is None else low, mean if high is None else high) for _, _, mean, low, high in rows
    ]
    low, high = min(spot[1] for spot in known), max(spot[2] for spot in known)
    pad = max(0.02, 0.08 * (high - low))
    low, high = max(0.0, low - pad), min(1.0, high + pad)
    span = high - low
    marks = [Tick(100 * (v - low) / span, f"{100 * v:.0f}%") for v in ticks(low, high, 4)]
    rungs = []
    for (name, kind, mean, *ends), spots in zip(rows, known, strict=True):
        at = [100 * (value - low) / span for value in spots]
        interval = percent_interval(dict(zip(("low", "high"), ends, strict=True)))
        rungs.append(Rung(name, kind, percent(mean), interval, at[0], at[1], at[2]))
    told = "; ".join(f"{r.name} {r.value} {r.interval}" for r in rungs)
    return Ladder(rungs, marks, f"{label}: {told}")


def histogram(
    edges: Sequence[float],
    groups: Sequence[tuple[str, str, Sequence[int]]],
    label: str,
    *,
    cuts: Sequence[float] = (),
) -> Bars | None:
    """Groups of (name, kind, counts per bin), stacked between `edges` (one more than bins); None without counts.

    The outermost bins are taken to hold what lies beyond them. `cuts` are drawn as vertical lines.
    """
    if len(edges) < 2 or not any(sum(counts) for _, _, counts in groups):
        return None
    columns = [(edges[k], edges[k + 1], _between(edges, k)) for k in range(len(edges) - 1)]
    figure = _stack(columns, [g[:2] for g in groups], [g[2] for g in groups], label)
    low, high = edges[0], edges[-1]
    values = ticks(low, high, 8)
    marks = [
        Tick(100 * (v - low) / (high - low), text) for v, text in zip(values, _labels(values), strict=True)
    ]
    lines = [Tick(100 * (c - low) / (high - low), number(float(c))) for c in cuts if low <= c <= high]
    return Bars(figure.bars, marks, figure.y_ticks, figure.height, figure.label, lines)


def _between(edges: Sequence[float], k: int) -> str:
    if k == 0:
        return f"below {number(edges[1])}"
    if k == len(edges) - 2:
        return f"above {number(edges[k])}"
    return f"{number(edges[k])} to {number(edges[k + 1])}"


def discrete(columns: Sequence[str], groups: Sequence[tuple[str, str, Sequence[int]]], label: str) -> Bars:
    """One bar per column name, groups of (name, kind, counts) stacked; for numbers that are few and whole."""
    spans = [(float(k), k + 1.0, name) for k, name in enumerate(columns)]
    figure = _stack(spans, [g[:2] for g in groups], [g[2] for g in groups], label, air=0.06)
    every = max(1, math.ceil(len(columns) / 17))
    marks = [Tick(100 * (k + 0.5) / len(columns), name) for k, name in enumerate(columns) if k % every == 0]
    return Bars(figure.bars, marks, figure.y_ticks, figure.height, figure.label)


def _stack(
    columns: Sequence[tuple[float, float, str]],
    groups: Sequence[tuple[str, str]],
    counts: Sequence[Sequence[int]],
    label: str,
    *,
    height: int = 150,
    air: float = 0.0,
) -> Bars:
    """Bars of one column each; `air` is the share of a column left free on either side."""
    low, high = columns[0][0], columns[-1][1]
    tallest = max(sum(group[k] for group in counts) for k in range(len(columns))) or 1
    scale = height / tallest
    bars = []
    for k, (left, right, name) in enumerate(columns):
        base = float(height)
        for (group, kind), numbers in zip(groups, counts, strict=True):
            if not numbers[k]:
                continue
            tall = numbers[k] * scale
            base -= tall
            width = 100 * (right - left) / (high - low)
            x = 100 * (left - low) / (high - low) + air * width
            bars.append(
                Bar(x, width * (1 - 2 * air), base, tall, kind, f"{name}: {numbers[k]:,} {group}".strip())
            )
    values = [v for v in ticks(0, tallest, 3) if v == int(v)]
    marks = [Tick(height - v * scale, f"{int(v):,}") for v in values]
    totals = ", ".join(f"{sum(n):,} {group}".strip() for (group, _), n in zip(groups, counts, strict=True))
    return Bars(bars, [], marks, height, f"{label} ({totals})")


def lines(title: str, series: Sequence[Series], *, unit: str = "", height: int = 150) -> Lines | None:
    """Curves over steps on common axes; the y range ignores the wildest 1%; None when nothing is finite."""
    series = [_finite(one) for one in series]
    series = [one for one in series if one.x]
    if not series:
        return None
    low, high = _range([v for one in series for v in one.y])
    last = max(max(one.x) for one in series)
    first = min(min(one.x) for one in series)
    first = 0.0 if first <= 0.2 * last else first
    box = (first, last if last > first else first + 1, low, high, height)
    marks = ticks(low, high, 4)
    y_ticks = [Tick(_y(v, box), text) for v, text in zip(marks, _labels(marks), strict=True)]
    steps = [v for v in ticks(box[0], box[1], 4) if v == int(v)]
    x_ticks = [Tick(_x(v, box), f"{int(v):,}") for v in steps]
    told = "; ".join(f"{one.name} from {number(one.y[0])} to {number(one.y[-1])}" for one in series)
    curves = [_curve(one, box) for one in series]
    zero = _y(0.0, box) if low < 0 < high else None
    label = f"{title}{f' ({unit})' if unit else ''}: {told}"
    return Lines(title, curves, x_ticks, y_ticks, zero, height, label)


Box = tuple[
    float, float, float, float, int
]  # first and last step, lowest and highest value, height in pixels


def _x(step: float, box: Box) -> float:
    return 100 * (step - box[0]) / (box[1] - box[0])


def _y(value: float, box: Box) -> float:
    share = (box[3] - value) / (box[3] - box[2])
    return round(box[4] * min(1.0, max(0.0, share)), 2)


def _finite(one: Series) -> Series:
    kept = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y is not None and math.isfinite(y)]
    stretch = math.ceil(len(kept) / MOST_POINTS)
    if stretch > 1:
        parts = [kept[k : k + stretch] for k in range(0, len(kept), stretch)]
        kept = [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
    return Series(one.name, one.kind, [x for x, _ in kept], [y for _, y in kept], one.dashed, one.held_out)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value shown: the middle 98%, then some air; zero comes in when it is near."""
    order = sorted(values)
    low, high = order[int(0.01 * (len(order) - 1))], order[math.ceil(0.99 * (len(order) - 1))]
    span = high - low or abs(high) or 1.0
    if 0 < low <= 0.35 * span:
        low = 0.0
    if -0.35 * span <= high < 0:
        high = 0.0
    if low == high:  # zeros alone
        return 0.0, 1.0
    return (low if low == 0 else low - 0.04 * span), (high if high == 0 else high + 0.04 * span)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over `width` neighbours, fewer at the ends."""
    half = width // 2
    spans = (values[max(0, k - half) : k + half + 1] for k in range(len(values)))
    return [sum(span) / len(span) for span in spans]


def _curve(one: Series, box: Box) -> Curve:
    width = max(1, len(one.y) // 20) | 1
    xs = [_x(step, box) for step in one.x]
    smooth = running_mean(one.y, width)
    raw = "" if one.held_out or width == 1 else _path(xs, one.y, box)
    circles = [(round(x, 3), _y(y, box)) for x, y in zip(xs, one.y, strict=True)] if one.held_out else []
    shown = one.y if one.held_out else smooth
    readings = [(round(x, 2), f"{s:,.0f}", number(v)) for x, s, v in zip(xs, one.x, shown, strict=True)]
    return Curve(one, raw, _path(xs, shown, box), circles, readings)


def _path(xs: Sequence[float], ys: Sequence[float], box: Box) -> str:
    spots = [f"{x * WIDE / 100:.1f},{_y(y, box):.1f}" for x, y in zip(xs, ys, strict=True)]
    return "M" + "L".join(spots) if len(spots) > 1 else ""
