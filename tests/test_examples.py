"""The examples run: every script, and the code of the notebook, each in an empty folder."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

from prefopt.core.plugins import added, remove_part
from prefopt.judges import JUDGES
from prefopt.losses import table as losses
from prefopt.verify.verifiers import VERIFIERS

EXAMPLES = Path(__file__).parent.parent / "examples"
SAID = {
    "run_recipe": r"full +\d+\.\d% \[",
    "dpo_in_memory": r"eval_loss",
    "stage_by_stage": r"after: \d+% \[",
    "plugin": r"\d+ pairs of longer derivations",
    "judge_check": r"slip: right in \d+%",
}
PARTS = ("my_parts",)  # plug-ins, which are no scripts


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    for kind, registry in (("loss", losses._BY_NAME), ("judge", JUDGES), ("verifier", VERIFIERS)):
        for name in added(kind):
            remove_part(kind, name, registry)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SAID)
def test_a_script_runs(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(SAID[name], capsys.readouterr().out)


@pytest.mark.slow  # its outputs are checked below; the scripts run in every suite
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs():
    names = {}
    for number, cell in enumerate(_code()):
        exec(compile(cell, f"pairs.ipynb, code cell {number}", "exec"), names)  # noqa: S102
    assert names["pairs"].num_rows > 20
    assert set(names["rows"]) == {"base", "dpo", "dpo + nll"}


def test_the_notebook_is_what_was_run():
    """Every code cell has its outputs, none of them an error, and nothing of the machine that it ran on."""
    notebook = json.loads((EXAMPLES / "pairs.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell["outputs"]]
    assert len(shown) >= len(code) - 2
    assert not [output for output in shown if output["output_type"] == "error"]
    assert not re.search(r"/(home|root|work|tmp|Users)/", json.dumps(shown))
    assert (EXAMPLES / "pairs.ipynb").stat().st_size < 200_000


def test_every_example_is_run_and_listed():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == {*SAID, *PARTS}
    listed = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in EXAMPLES.iterdir() if f"({path.name})" not in listed] == ["README.md"]


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 45, path.name


def _code() -> list[str]:
    notebook = json.loads((EXAMPLES / "pairs.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        ast.parse(cell)  # no magics: it runs anywhere
    return cells
