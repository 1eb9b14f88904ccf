"""The page: views of all sections -> one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from prefopt.report import data_sections, sections, text
from prefopt.report.curves import training
from prefopt.report.during import during
from prefopt.report.html import resource, template, write_page
from prefopt.report.load import RunData, load_run
from prefopt.report.rounds import rounds
from prefopt.report.samples import answers
from prefopt.report.sweep import sweep_view
from prefopt.report.tournaments import LONGEST, comparisons

if TYPE_CHECKING:
    pass


# what stands in place of a section that could not be made
NOTHING: dict[str, Any] = {
    "first": dict.fromkeys(("metric", "before", "after", "ladder", "n", "of", "arm"))
    | {"verdict": [], "warnings": [], "facts": []},
    "made": {"about": "", "recipe": "", "stages": [], "versions": {"prefopt": ""}, "seconds": []},
    "flow": [],
}
TITLES = {
    "first": "Result",
    "made": "How it was made",
    "flow": "From the input to the model",
    "gap": "Reference gap",
    "sweep": "How the settings were chosen",
    "during": "How answers changed during training",
}


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write `report.html` of a finished run (or the file `output`) and return its path. Equal run folders give equal bytes.

    A section that cannot be made is shown as failed, there and by a warning on standard error.

    Raises:
        PrefoptError: the folder holds no finished run, or the file cannot be written.
    """
    run = load_run(Path(folder))
    path = output or run.folder / "report.html"
    page, failed = _render(run)
    for section, problem in failed.items():
        sys.stderr.write(
            f"warning: the report's section {section!r} failed ({problem}); the run is complete\n"
        )
    return write_page(page, path)


def render(run: RunData) -> str:
    """The page as text, free of characters that UTF-8 or HTML cannot hold."""
    return _render(run)[0]


def _render(run: RunData) -> tuple[str, dict[str, str]]:
    """The page, and section -> why it failed."""
    makers: dict[str, Callable[[RunData], Any]] = {
        "first": sections.first_screen,
        "accuracy": sections.accuracy,
        "rounds": rounds,
        "sweep": lambda run: sweep_view(run.summary),
        "flow": data_sections.flow,
        "comparisons": comparisons,
        "difficulty": data_sections.difficulty,
        "gap": data_sections.gap,
        "training": training,
        "during": during,
        "answers": answers,
        "made": _made,
    }
    views: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, maker in makers.items():
        # whatever is wrong in one section, the others and the run are not lost by it
        try:
            views[name] = maker(run)
        except Exception as error:
            failed[name] = _problem(error)
            views[name] = NOTHING.get(name)
    try:
        return _page(run, views, failed), failed
    except Exception:
        empty = {name: NOTHING.get(name) for name in views}
        for name in [name for name in views if name not in failed]:
            try:
                _page(run, {**empty, name: views[name]}, {})
            except Exception as error:
                failed[name], views[name] = _problem(error), empty[name]
    return _page(run, views, failed), failed


def _problem(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _page(run: RunData, views: Mapping[str, Any], failed: Mapping[str, str]) -> str:
    from markupsafe import Markup

    script = resource("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template("page.html.j2").render(
        name=run.summary.get("recipe") or run.folder.name,
        about=run.summary.get("about") or "",
        single=len(run.summary["arms"]) == 1,
        **views,
        failed=[(TITLES.get(section, section.capitalize()), problem) for section, problem in failed.items()],
        accuracy_about=_accuracy_about(run),
        longest_answer=LONGEST,
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )  # fmt: skip
    return text.printable(page)


def _accuracy_about(run: RunData) -> str:
    if run.summary.get("accuracy"):
        # the recipe as given: what it leaves out has its default
        given = (run.summary.get("settings") or {}).get("evaluate") or {}
        greedily = " and greedily" if run.summary.get("greedy") else ""
        return (
            f"Every arm answers the same test prompts, sampled at temperature {given.get('temperature', 1.0):g}{greedily}. "
            "Intervals are 95% (Wilson); differences between arms are paired by prompt."
        )
    return (
        "Without test prompts, the measure is held-out pairs: how often the model gives the chosen answer the higher "
        "log-prob. Intervals are 95% (Wilson); differences are paired."
    )


def _made(run: RunData) -> dict[str, Any]:
    summary = run.summary
    manifests = {}
    for arm, stages in summary["folders"].items():
        for stage, place in stages.items():
            manifests[place] = run.manifest(arm, stage)
    ordered = sorted(manifests.items(), key=lambda item: (item[0].count("/"), item[0]))
    versions = next((m["versions"] for _, m in reversed(ordered) if m.get("versions")), {"prefopt": ""})
    stages = [{"name": p, "seed": m.get("seed"), "key": str(m.get("key", ""))[:16]} for p, m in ordered if m]
    seconds = [(name, text.duration(value)) for name, value in (summary.get("stage_seconds") or {}).items()]
    seconds.append(("whole run", text.duration(summary.get("seconds"))))
    recipe = yaml.safe_dump(summary.get("settings") or {}, sort_keys=False, allow_unicode=True, width=96)
    return {
        "about": (
            f"Everything follows from the recipe and seed {summary.get('seed')}. Each stage's folder holds its table "
            "and a manifest; a stage is named by the key of its settings and inputs."
        ),
        "recipe": recipe.strip(), "stages": stages, "versions": versions, "seconds": seconds,
    }  # fmt: skip
