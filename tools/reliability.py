"""Write the table of docs/reliability.md from tests/chaos/results.json: python tools/reliability.py. A test holds one against the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tests" / "chaos" / "results.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- figures: written by tools/reliability.py from tests/chaos/results.json -->"
END = "<!-- end of figures -->"
# figure of a kind -> how it is told
TOLD = {
    "kills": "{} kills survived",
    "runs": "{} runs",
    "files_lost": "{} files lost",
    "files_changed": "{} changed",
    "said_another_process": "{} said that another process works there",
    "silent_drops": "{} silent drops",
    "did_not_end": "{} did not end",
    "refused": "{} refused in one line",
    "kinds_of_faults": "{} kinds of faults",
    "ended_by_signal": "{} ended by a library's abort",
}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown."""
    lines = ["| attempts | | wrong | tracebacks | besides |", "|---|--:|--:|--:|---|"]
    for kind, figures in found.items():
        more = [text.format(figures[name]) for name, text in TOLD.items() if name in figures]
        lines.append(
            f"| {kind} | {figures['attempts']:,} | {figures['wrong']} | {figures['tracebacks']} | {', '.join(more)} |"
        )
    total = {
        name: sum(figures[name] for figures in found.values()) for name in ("attempts", "wrong", "tracebacks")
    }
    lines.append(
        f"| **all** | **{total['attempts']:,}** | **{total['wrong']}** | **{total['tracebacks']}** | |"
    )
    return "\n".join(lines)


def page() -> str:
    """The page with the table put in."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{table(json.loads(RESULTS.read_text(encoding='utf-8')))}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
