"""Write the tables of docs/formats.md: a row of every public form as the tests hold it, and the columns it becomes.

    python tools/formats_docs.py [--check]

The rows are those of tests/support/public_forms.py, read here as a file of theirs would be. --check changes nothing and
exits 1 where the page says something else.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "formats.md"
sys.path.insert(0, str(ROOT / "tests" / "support"))

from public_forms import SAMPLES  # noqa: E402

from prefopt.stages.data.data import data  # noqa: E402
from prefopt.stages.data.reading.formats import FORMATS  # noqa: E402
from prefopt.stages.data.settings import DataConfig  # noqa: E402
from prefopt.tables.context import Context  # noqa: E402
from prefopt.tables.records import rows_of  # noqa: E402

BEGIN, END = "<!-- forms:begin -->", "<!-- forms:end -->"
TITLES = {
    "pairs": "Pairs", "completions": "Completions with scores, ranks or marks", "unpaired": "One answer with a label",
    "prompts": "Prompts",
}  # fmt: skip
OWN = ("id", "prompt_id", "split", "completion_index")


def tables() -> str:
    """The generated part of the page."""
    lines: list[str] = [
        "## The forms",
        "",
        "First match wins, in this order.",
        "",
        "| form | kind | recognised by |",
        "|---|---|---|",
    ]
    lines += [f"| `{form.name}` | {form.kind} | {_cell(form.about)} |" for form in FORMATS.values()]
    for kind, title in TITLES.items():
        lines += ["", f"## {title}"]
        for sample in SAMPLES:
            if FORMATS[sample.form].kind == kind:
                lines += ["", f"**{sample.whose}** ([source]({sample.source})), form `{sample.form}`"]
                lines += [f": {sample.notes}"] if sample.notes else []
                lines += [
                    "",
                    "```json",
                    json.dumps(sample.row, ensure_ascii=False),
                    "```",
                    "becomes",
                    "```json",
                ]
                lines += [json.dumps(row, ensure_ascii=False) for row in read(sample.row)] + ["```"]
    return "\n".join(lines) + "\n"


def read(row: dict[str, object]) -> list[dict[str, object]]:
    """What a file with this one row becomes, without names and sides."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        found = rows_of(data(None, DataConfig(path=str(path), heldout=0.0), Context()).table)
    return [
        {name: value for name, value in r.items() if name not in OWN and value is not None} for r in found
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """The page with its generated part anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}{END}{after}"


def main() -> int:
    """Write the page, or compare."""
    wanted = page()
    if "--check" in sys.argv[1:]:
        return int(wanted != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
