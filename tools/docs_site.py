"""What the site has besides docs/: the README as its first page, the reference pages, and the project's files that pages link to.

A hook of MkDocs (`hooks:` in mkdocs.yml). Pages link to files of the project as they do on a code host (`../src/...`); on the site such a
link leads to a page that shows the file, so that the site stands alone. Nothing here needs MkDocs but the events at the end.
"""

from __future__ import annotations

import os
import posixpath
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
LANGUAGES = {
    ".py": "python",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".ipynb": "json",
    ".cff": "yaml",
    ".sh": "bash",
}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
# page -> title and the modules whose public names it shows
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "face": ("The public face", ("pipeline.face", "pipeline.functions", "pipeline.trainer")),
    "pure": (
        "Losses and rules",
        (
            *("losses.pairwise", "losses.unpaired", "losses.regularizers", "losses.mirror", "losses.links"),
            *("losses.loss", "losses.recipe", "losses.added", "losses.table", "rules.selection", "rules.weights", "rules.pairing"),
            *("rules.tournament", "rules.standing", "rules.intervals"),
        ),
    ),
    "pipeline": (
        "Stages and pipeline",
        (
            *("pipeline.run", "pipeline.recipe", "stages.stage", "stages.running", "stages.alone"),
            *("stages.data.data", "stages.sample.sample", "stages.judge.judge", "stages.rank.rank"),
            *("stages.reference.reference", "stages.select.select", "stages.weight.weight", "stages.train.train"),
            *("stages.evaluate.evaluate", "tables.columns", "tables.records", "core.errors", "core.settings"),
        ),
    ),
    "parts": (
        "Judges, engines, verifiers",
        (
            *("core.plugins", "judges", "judges.verdicts", "judges.added", "judges.parse", "judges.prompt", "engines"),
            *("engines.protocol", "engines.added", "engines.fake", "verify", "verify.verifiers", "verify.answers"),
            *("tools.check.check", "tools.judge_check", "tools.win_rate.win_rate", "tools.mt_bench.mt_bench", "tools.harness"),
        ),
    ),
    "training": (
        "Models, scoring, training",
        (
            *("models.find", "models.load", "models.template", "models.adapters", "scoring.logprobs", "scoring.shared"),
            *("scoring.packing", "scoring.masks", "scoring.head", "scoring.store", "training.settings"),
            *("training.trainer", "training.step", "training.collate", "training.metrics", "training.checkpoints"),
        ),
    ),
}  # fmt: skip


def reference_pages() -> Iterator[tuple[str, str]]:
    """(page, Markdown) of the generated reference: one page per family of modules, and all settings of a recipe."""
    for name, (title, modules) in REFERENCE.items():
        parts = "\n\n".join(f"::: prefopt.{module}" for module in modules)
        yield f"reference/{name}.md", f"# {title}\n\nPublic names, from their docstrings.\n\n{parts}\n"
    yield "reference/settings.md", settings_page()


def settings_page() -> str:
    """Every setting of a recipe as tables, one per section, read from the settings objects themselves."""
    from prefopt.pipeline.recipe import Recipe

    lines = [
        "# Settings", "",
        "Every key of a recipe, written from the settings objects. On the command line the same keys are "
        "`--section.key value` (`--train.learning_rate 1e-5`); a stage set to null is skipped.", "",
        "## the recipe itself", "", *_table(Recipe, "", nested=False),
    ]  # fmt: skip
    for name, field in Recipe.model_fields.items():
        for kind in _models(field.annotation):
            about = (kind.__doc__ or "").splitlines()[0]
            lines += ["", f"## {name}", "", about, "", *_table(kind, "", nested=True)]
    return "\n".join(lines) + "\n"


def _table(kind: Any, prefix: str, *, nested: bool) -> list[str]:
    rows = [] if prefix else ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        inner = _models(field.annotation)
        if inner and not nested:
            continue
        default = "" if field.is_required() or inner else f"`{_cell(_plain(field.default))}`"
        limits = " ".join(_limits(field.metadata))
        shown = f"{_type(field.annotation)} {limits}".strip()
        rows.append(f"| `{prefix}{name}` | {_cell(shown)} | {default} | {_cell(field.description or '')} |")
        for each in inner:
            rows += _table(each, f"{prefix}{name}.", nested=True)
    return rows


def _models(annotation: Any) -> list[Any]:
    """The settings objects that a field may hold."""
    kinds = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    return [kind for kind in kinds if hasattr(kind, "model_fields")]


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else _type(arg) for arg in args)
    if origin is dict:
        return "mapping"
    if origin is not None:
        inner = ", ".join("..." if arg is Ellipsis else _type(arg) for arg in args)
        return f"{origin.__name__} of {inner}" if origin in (list, set) else f"{origin.__name__}[{inner}]"
    words = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true, false",
        "dict": "mapping",
        "Path": "path",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return "mapping" if hasattr(annotation, "model_fields") else words.get(name, name)


def _limits(metadata: Any) -> Iterator[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for each in metadata:
        yield from (f"{sign} {getattr(each, name):g}" for name, sign in signs.items() if hasattr(each, name))


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def project_files() -> dict[str, str]:
    """Page of the site -> the project's file that it shows: prose, and whatever pages link to outside of docs/."""
    todo = [*sorted(DOCS.glob("*.md")), *(ROOT / name for name in PROSE)]
    seen = set(todo)
    for page in todo:  # grows: pages that are shown have links too
        for _, link, _ in LINK.findall(page.read_text(encoding="utf-8")) if page.suffix == ".md" else ():
            path = _inside(page.parent, link)
            if path and path.is_file() and DOCS not in path.parents and path not in seen:
                seen.add(path)
                todo.append(path)
    names = [path.relative_to(ROOT).as_posix() for path in todo if DOCS not in path.parents]
    return {_page_of(name): name for name in names}


def _page_of(name: str) -> str:
    if name == "README.md":
        return "index.md"
    return f"project/{name}" if name in PROSE else f"source/{name}.md"


def _inside(folder: Path, link: str) -> Path | None:
    """The file of the project that a link means; None for addresses and anchors."""
    name = link.partition("#")[0]
    if not name or "://" in name or name.startswith("mailto:"):
        return None
    path = Path(os.path.normpath(folder / name))
    return path if ROOT in path.parents else None


def relink(text: str, folder: Path, page: str) -> str:
    """Links of a page written in `folder` of the project, as they must be on the site's `page`."""

    def change(match: re.Match[str]) -> str:
        path = _inside(folder, match[2])
        if path is None or not path.is_file():
            return match[0]
        anchor = match[2].partition("#")[1] + match[2].partition("#")[2]
        target = (
            path.relative_to(DOCS).as_posix()
            if DOCS in path.parents
            else _page_of(path.relative_to(ROOT).as_posix())
        )
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{anchor}{match[3]}"

    return LINK.sub(change, text)


def shown(page: str, name: str) -> str:
    """Markdown of the page that shows a file of the project."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return relink(text, (ROOT / name).parent, page)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"# {name}\n\n{fence}{LANGUAGES.get(Path(name).suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def missing_pages(nav: Any) -> list[str]:
    """Pages of docs/ that the table of contents does not name."""
    named = set(re.findall(r"[\w./-]+\.md", str(nav)))
    return [page.name for page in sorted(DOCS.glob("*.md")) if page.name not in named]


def on_config(config: Any) -> Any:
    """MkDocs: a page that nobody has put into the table of contents stands at its end."""
    missing = missing_pages(config["nav"])
    if missing:
        config["nav"].append({"More": missing})
    return config


def on_files(files: Any, config: Mapping[str, Any]) -> Any:
    """MkDocs: add the pages that have no file in docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    for page, text in reference_pages():
        files.append(File.generated(config, page, content=text))
    for page, name in project_files().items():
        level = InclusionLevel.NOT_IN_NAV if page.startswith("source/") else InclusionLevel.UNDEFINED
        files.append(File.generated(config, page, content=shown(page, name), inclusion=level))
    return files


def foreign_parts(html: str) -> list[str]:
    """Scripts, styles, fonts, pictures and frames that a page would fetch from elsewhere."""
    tags = re.findall(r"<(?:script|img|iframe|link|source)\b[^>]*>", html)
    return [tag for tag in tags if re.search(r"""\b(?:src|href)=["']?(?:https?:)?//""", tag)]


def on_post_build(config: Any) -> None:
    """MkDocs: an error where a page of the site would fetch anything from elsewhere."""
    from mkdocs.exceptions import PluginError

    for page in sorted(Path(config["site_dir"]).rglob("*.html")):
        found = foreign_parts(page.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{page}: fetched from elsewhere: {found[0]}")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs: links of a page of docs/ that leave it lead to the page that shows their target."""
    name = page.file.src_uri
    return relink(markdown, DOCS, name) if (DOCS / name).is_file() else markdown
