"""The pages of docs/: what they point at exists, and the tables that answer a newcomer's questions are true."""

import ast
import importlib.util
import re
import shlex
import tomllib
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

import prefopt
from prefopt.cli.app import app
from prefopt.cli.registry import Group, read_app
from prefopt.cli.words import read_words
from prefopt.rules.selection import RULES
from prefopt.rules.weights import SCHEMES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "prefopt"
PAGES = sorted((ROOT / "docs").glob("*.md"))
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PINNED = ("dev", "docs", "suite", "mjx", "server", "trackers")
SLACK = 1.25  # sizes in the table may be off by so much before it has to be written anew


def _tool(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def _defined(path: Path) -> set[str]:
    """Functions of a file, those of its classes as `Class.function`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, kinds):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, kinds)}
    return names


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", text)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{page.name}: {link}"


def test_the_way_of_a_pair_passes_functions_that_exist():
    steps = re.findall(r"\[`(\w+)\.([\w.]+)`\]\(\.\./(src/[\w/]+\.py)\)", ARCHITECTURE.read_text())
    assert len(steps) >= 10
    for module, function, path in steps:
        assert Path(path).stem == module, path
        assert function in _defined(ROOT / path), f"{path}: {function}"


def test_places_for_new_things_and_their_tables_exist():
    text = ARCHITECTURE.read_text().split("## Where to put something new")[1].split("## Sizes")[0]
    rows = _rows(text)[1:]
    assert len(rows) >= 9
    for row in rows:
        named = [name for name in re.findall(r"`([\w/.]+)`", " ".join(row)) if "/" in name]
        for name in named:
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), f"{row[0]}: {name}"
        sources = "\n".join(
            path.read_text() for path in (PACKAGE / n for n in named if n.endswith(".py")) if path.exists()
        )
        for table in re.findall(r"`([A-Z]{3,})`", " ".join(row)):
            assert re.search(rf"^{table}\b.*=", sources, flags=re.MULTILINE), f"{row[0]}: {table}"


def test_sizes_of_folders_are_about_right():
    layout = _tool("layout")
    now = {row[0]: row for row in _rows(layout.table(layout.modules()))[1:]}
    shown = {row[0]: row for row in _rows(ARCHITECTURE.read_text().split("sizes:")[1])[1:]}
    assert set(shown) == set(now), "run python tools/readme.py"
    for name, row in shown.items():
        ratio = int(row[2].replace(",", "")) / int(now[name][2].replace(",", ""))
        assert 1 / SLACK <= ratio <= SLACK, f"{name}: run python tools/readme.py"


def test_a_newcomer_finds_the_place_by_searching_one_page():
    questions = _rows((ROOT / "docs" / "where.md").read_text())[1:]
    assert len(questions) >= 15
    lines = ARCHITECTURE.read_text().splitlines()
    for question, word, answer in questions:
        hits = [line for line in lines if word.strip("`").lower() in line.lower()]
        path = answer.strip("`")
        assert len(hits) <= 10, f"{question}: {len(hits)} hits"
        assert any(path in line for line in hits), f"{question}: {path} is not among the hits"
        assert (PACKAGE / path).exists(), path


def test_every_page_can_be_reached_from_the_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        for link in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            target = (page.parent / link).resolve()
            if "://" not in link and target not in seen:
                todo.append(target)
    assert [page.name for page in PAGES if page not in seen] == [], (
        "link it from README.md or a page that is linked"
    )


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_rules_and_schemes_are_all_described():
    page = (ROOT / "docs" / "selection.md").read_text()
    assert [name for name in (*RULES, *SCHEMES) if f"| `{name}` |" not in page] == []


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert {project["version"], cited.group(1), released[0]} == {prefopt.__version__}


def test_extras_are_named_as_they_are_installed():
    """`pip install 'prefopt[suite]'` finds no such project: extras come from a checkout, and exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in [*PAGES, ROOT / "README.md"]:
        text = path.read_text()
        assert "install 'prefopt[" not in text, path
        for named in re.findall(r"pip install '\.\[([\w,]+)\]'", text):
            assert set(named.split(",")) <= set(extras), f"{path}: {named}"


def _steps(path: Path) -> list[list[str]]:
    """Instructions of a Dockerfile: the word and its line, continuations joined, comments left out."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_dockerfile_is_pinned_and_does_not_run_as_root():
    steps = _steps(ROOT / "Dockerfile")
    bases = [rest for word, rest in steps if word == "FROM"]
    assert bases
    assert all(re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", base) for base in bases)
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    runs = [rest for word, rest in steps if word == "RUN"]
    installs = [run for run in runs if "pip install" in run]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)
    assert not any(re.search(r"\bsudo\b|apt-get install(?!.*--no-install-recommends)", run) for run in runs)
    words = [word for word, _ in steps]
    assert "ADD" not in words
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "COPY")
    assert words[-2:] == ["ENTRYPOINT", "CMD"]


def test_the_image_gets_what_it_copies_and_nothing_else():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = {
        name.removeprefix("./")
        for word, rest in _steps(ROOT / "Dockerfile")
        if word == "COPY"
        for name in rest.split()[:-1]
    }
    assert copied == allowed
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
    assert all((ROOT / name).exists() for name in copied)


def test_templates_are_forms_that_can_be_filled_in():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form)
        names = [part["id"] for part in form["body"]]
        assert len(names) == len(set(names))
        assert all(part["type"] in ("textarea", "input", "dropdown", "checkboxes") for part in form["body"])


def test_the_citation_has_what_the_format_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(cited)
    assert all({"type", "title", "authors"} <= set(each) for each in cited["references"])


def test_constraints_name_everything_that_an_extra_brings():
    """Every direct dependency has one exact version, but for extras that no test machine can install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = {name: wants for name, wants in project["optional-dependencies"].items() if name in PINNED}
    for wanted in [*project["dependencies"], *(one for wants in extras.values() for one in wants)]:
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", wanted)[0]).lower()
        assert name in pinned, f"constraints.txt lacks {name}"


def test_links_that_leave_the_pages_are_followed_on_the_site():
    site = _tool("docs_site")
    found = site.relink(
        "[a](../src/prefopt/rules/order.py) [b](losses.md#x) [c](https://d.e) [f](../README.md) [g](#h)",
        ROOT / "docs",
        "where.md",
    )
    assert found == (
        "[a](source/src/prefopt/rules/order.py.md) [b](losses.md#x) [c](https://d.e) [f](index.md) [g](#h)"
    )
    assert site.relink("[a](docs/losses.md)", ROOT, "project/CHANGELOG.md") == "[a](../losses.md)"
    shown = site.project_files()
    assert shown["source/tools/layout.py.md"] == "tools/layout.py"
    assert shown["source/examples/README.md.md"] == "examples/README.md"
    assert shown["source/examples/plugin.py.md"] == "examples/plugin.py"  # linked from the page before


def test_parts_of_a_page_from_elsewhere_are_found():
    found = _tool("docs_site").foreign_parts(
        '<script src="https://a.b/c.js"></script><link href=//d.e/f.css><a href="https://g.h"></a><img src="i.png">'
    )
    assert found == ['<script src="https://a.b/c.js">', "<link href=//d.e/f.css>"]


def test_every_setting_is_on_the_settings_page():
    site = _tool("docs_site")
    page = site.settings_page()
    for name in ("`learning_rate`", "`lora.r`", "`rule`", "`judge.kind`", "`seed`"):
        assert f"| {name} |" in page, name
    assert "| `warmup` | number >= 0 | `0.1` |" in page


def test_modules_of_the_reference_exist():
    site = _tool("docs_site")
    known = _tool("layout").modules()
    assert [m for _, modules in site.REFERENCE.values() for m in modules if f"prefopt.{m}" not in known] == []


def _command_lines(path: Path) -> list[str]:
    """Lines of code blocks that call prefopt, without comments; continued ones joined."""
    text = path.read_text().replace("\\\n", " ")
    fenced = "\n".join(
        re.findall(r"^```(?:bash|sh|console|text)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    )
    indented = "\n".join(line for line in text.splitlines() if line.startswith("    "))
    lines = [line.strip().removeprefix("$ ") for line in f"{fenced}\n{indented}".splitlines()]
    return [line for line in lines if re.match(r"prefopt [a-z]", line)]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_command_lines_name_verbs_and_options_that_exist(page):
    top = read_app(app)
    for line in _command_lines(page):
        words = shlex.split(line, comments=True)[1:]
        words = list(takewhile(lambda word: word not in (">", ">>", "|", "&&", "&"), words))
        entry = top
        while isinstance(entry, Group) and words and words[0] in entry.verbs:
            entry = entry.verbs[words.pop(0)]
        verb = entry.alone if isinstance(entry, Group) else entry
        assert verb is not None, line
        if "..." not in line:
            read_words(verb, words)
