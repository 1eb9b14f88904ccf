"""Templates of pages and the writing of one: everything that is put in is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.report import text
from prefopt.report.plots import Curve
from prefopt.tables.ours import check_file
from prefopt.tables.records import atomic_file

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = (
    *("page.html.j2", "figures.html.j2", "comparisons.html.j2", "sweep.html.j2", "during.html.j2"),
    *("seeds.html.j2", "compared.html.j2"),
)
_JUDGEMENT = re.compile(
    r"(a clear gain|better than chance)|(clearly worse|worse than chance)|(no clear difference)"
)
_HYPHEN = re.compile(r"(?<![\w-])-(?=\d)")


def write_page(page: str, path: Path) -> Path:
    """Write a page where a page of ours may stand; returns its path.

    Raises:
        PrefoptError: the file is somebody else's, or cannot be written.
    """
    check_file(path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(page.encode("utf-8"))
    return path


def template(name: str) -> Any:
    """A page's template with our filters and style; all that is put into it is escaped."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    files = {name: resource(name) for name in TEMPLATES}
    environment = Environment(
        loader=DictLoader(files),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup(resource("style.css"))
    environment.filters |= {
        "at": lambda value: f"{value:.2f}".rstrip("0").rstrip("."),
        "anchor": lambda at: "start" if at < 4 else "end" if at > 96 else "middle",
        "judged": _judged,
        "minus": lambda said: _HYPHEN.sub(text.MINUS, said),
        "number": text.number,
        "p_value": text.p_value,
        "readings": _readings,
        "visible": text.visible,
    }
    return environment.get_template(name)


def _judged(said: str) -> Markup:
    """A sentence of the verdict with its judgement set off."""
    from markupsafe import Markup, escape

    tones = ("good", "bad", "plain")
    marked = escape(said)
    found = _JUDGEMENT.search(marked)
    if found is None or found.lastindex is None:
        return marked
    tone = tones[found.lastindex - 1]
    before, after = Markup(marked[: found.start()]), Markup(marked[found.end() :])
    return before + Markup('<b class="{}">{}</b>').format(tone, found.group()) + after


def _readings(curves: Sequence[Curve]) -> str:
    """What the script reads at the pointer, as JSON for an attribute (escaped by the template)."""
    return json.dumps(
        [{"name": curve.series.name, "at": curve.readings} for curve in curves], separators=(",", ":")
    )


def resource(name: str) -> str:
    """A file that lies beside this module."""
    return resources.files("prefopt.report").joinpath(name).read_text(encoding="utf-8")
