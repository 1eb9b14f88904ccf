"""Results of the suite drawn into a file: a self-contained page (plotly) with the rendered GIF, or an SVG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.bench.tables import agents_of
from prefopt.suite.figures.svg import curves_svg, returns_svg
from prefopt.suite.store import read_json
from prefopt.tables.ours import check_apart, check_file
from prefopt.tables.records import atomic_file


def plot_file(source: Path, target: Path) -> Path:
    """Draws a bench result, a training curve or {"curves": [...]} (JSON) into `target`: .svg a still picture, else a page.

    A picture `NAME.gif` beside the source (of `suite render`) stands below the figure of a page.

    Raises:
        PrefoptError: the file is neither.
    """
    check_apart(target, [("input", source)])
    check_file(target)
    body = read_json(source)
    kind = "rows" if isinstance(body, dict) and "rows" in body else "curves"
    curves = body.get("curves", [body]) if isinstance(body, dict) else []
    if kind == "curves" and not all("updates" in curve for curve in curves or [{}]):
        raise PrefoptError(f"{source}: neither a result of 'suite bench' nor a curve of 'suite train'")
    if target.suffix == ".svg":
        text = returns_svg(body) if kind == "rows" else curves_svg(curves)
    else:
        figure = returns_figure(body) if kind == "rows" else curve_figure(curves)
        text = figure.to_html(include_plotlyjs=True, full_html=True)
        text = text.replace("</body>", f"{_picture(source.with_suffix('.gif'))}</body>")
    with atomic_file(target) as temporary:
        temporary.write_text(f"{text.rstrip()}\n<!-- prefopt -->\n", encoding="utf-8")
    return target


def _picture(path: Path) -> str:
    """A rendered GIF as part of the page, where there is one."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = "Left: the reference policy. Right: after training."
    return f'<figure><img src="data:image/gif;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def returns_figure(result: Mapping[str, Any]) -> Any:
    """Mean return over lineages with its 95% interval by variant, one line per method; reference and expert as dotted lines."""
    import plotly.graph_objects as go

    rows = result["rows"]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure = go.Figure()
    for loss in dict.fromkeys(row["loss"] for row in rows):
        own = {row["variant"]: row for row in rows if row["loss"] == loss}
        seen = [v for v in variants if v in own]
        figure.add_scatter(
            x=seen,
            y=[own[v]["mean"] for v in seen],
            error_y={"type": "data", "array": [own[v]["half_width"] for v in seen]},
            mode="lines+markers",
            name=loss,
        )
    for name in ("reference", "expert"):
        figure.add_hline(agents_of(result)[name]["mean"], line_dash="dot", annotation_text=name)
    figure.update_layout(xaxis_title="data variant", yaxis_title="return", template="plotly_white")
    return figure


def curve_figure(curves: Sequence[Mapping[str, Any]]) -> Any:
    """Above: return by update (mean and standard error over lineages); below: training loss and chosen reward."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure: go.Figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for curve in curves:
        name = f"{curve['method']}, {curve['variant']}"
        for row, key in enumerate(("returns", "loss", "chosen_reward"), start=1):
            values = np.asarray(curve[key])
            error = (
                values.std(axis=0, ddof=1) / np.sqrt(len(values))
                if len(values) > 1
                else np.zeros(values.shape[1])
            )
            figure.add_scatter(
                x=curve["updates"], y=values.mean(axis=0), error_y={"type": "data", "array": error},
                name=name, showlegend=row == 1, row=row, col=1,
            )  # fmt: skip
            figure.update_yaxes(title_text=key.replace("_", " "), row=row, col=1)
        figure.add_hline(
            curve["reference_return"], line_dash="dot", annotation_text="reference", row=1, col=1
        )
    figure.update_xaxes(title_text="update", row=3, col=1)
    figure.update_layout(template="plotly_white")
    return figure
