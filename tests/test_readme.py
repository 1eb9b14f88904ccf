"""The README's tree is the code's, and its commands and files exist."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _tool():
    spec = importlib.util.spec_from_file_location("readme_tool", ROOT / "tools" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tree_of_the_architecture_is_the_code():
    assert _tool().tree() in (ROOT / "docs" / "architecture.md").read_text(), "run python tools/readme.py"


def test_every_module_says_what_it_is():
    lines = [line for line in _tool().tree().splitlines() if re.fullmatch(r"\s+\S+\.py", line)]
    assert lines == []


def test_every_folder_says_what_it_is():
    tool = _tool()
    folders = {path.parent.relative_to(tool.PACKAGE).as_posix() for path in tool.PACKAGE.rglob("*.py")} - {
        "."
    }
    shown = {line.split()[0].rstrip("/") for line in tool.tree().splitlines()}
    assert folders <= shown


def test_linked_files_and_make_targets_exist():
    text = (ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"^    make ([a-z]+) ", text, flags=re.MULTILINE)) <= set(targets)
