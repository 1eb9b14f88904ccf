"""The package keeps to the rules of docs/architecture.md; the checker itself finds what is planted."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "layout.py"


def _tool():
    spec = importlib.util.spec_from_file_location("layout_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_circles_and_no_broken_rules():
    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_package_fits_on_a_screen():
    names = [path.name for path in (ROOT / "src" / "prefopt").iterdir() if path.name != "__pycache__"]
    assert len(names) <= 20


def test_circles_are_found_also_through_others():
    found = _tool().circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert found == [["a", "b", "c"]]


def test_imports_in_functions_and_for_types_count(tmp_path):
    package = tmp_path / "prefopt"
    for name, text in {
        "__init__": "",
        "rules/__init__": "",
        "rules/order": "def f():\n    from prefopt.cli import app\n",
        "cli/__init__": "",
        "cli/app": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from prefopt.rules.order import _f\n",
    }.items():
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    tool = _tool()
    known = tool.modules(package)
    taken = {name: tool.imports(path, known) for name, path in known.items()}
    assert tool.circles({name: {other for other, _ in used} for name, used in taken.items()}) == [
        ["prefopt.cli.app", "prefopt.rules.order"]
    ]
    lines = list(tool.broken(taken))
    assert any("rules may not use cli" in line for line in lines)
    assert any("_f, which is private there" in line for line in lines)
