"""Every Python block of README and docs runs, page by page, in an empty folder; blocks of a page share their names.

A block that cannot run here says why in the line above it: `<!-- not run: REASON -->`.
"""

import re
import sys
from pathlib import Path

import pytest

from prefopt.core import plugins
from prefopt.engines import ENGINES
from prefopt.judges import JUDGES
from prefopt.losses import table as losses
from prefopt.rules.selection import RULES
from prefopt.stages.data.reading import added
from prefopt.verify.verifiers import VERIFIERS

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
TABLES = {
    "loss": losses._BY_NAME, "judge": JUDGES, "engine": ENGINES, "verifier": VERIFIERS, "rule": RULES,
    "format": added._ADDED,
}  # fmt: skip


def blocks(page: Path) -> list[tuple[int, str, str | None]]:
    """(line, code, why it is not run) of each block."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start("code")].count("\n"), m["code"], m["reason"]) for m in BLOCK.finditer(text)]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    for kind, table in TABLES.items():
        for name in plugins.added(kind):
            plugins.remove_part(kind, name, table)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # TRL's own use of an older name
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page):
    names = {"__name__": f"page_{page.stem}"}
    for line, code, reason in blocks(page):
        if reason is None:
            # line numbers of errors are those of the page
            exec(compile("\n" * line + code, str(page), "exec"), names)  # noqa: S102
    sys.modules.pop("my_checks", None)


def test_pages_with_examples_are_found():
    assert {"api.md", "extending.md", "from-trl.md"} <= {page.name for page in PAGES}
