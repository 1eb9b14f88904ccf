"""Write the generated parts of the documents: the tree in docs/architecture.md, and in README.md the result of a finished quickstart.

    python tools/readme.py [runs/quickstart]

Without a run folder only the tree is written anew. A test holds the tree against the code.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "prefopt"


def tree() -> str:
    """One line per file of the package: its path and the first line of its docstring."""
    lines = ["    src/prefopt/"]
    files = sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(path.relative_to(PACKAGE).parts) > 1, path))
    folder = PACKAGE
    for path in files:
        if path.parent != folder:
            folder = path.parent
            lines.append(f"      {folder.relative_to(PACKAGE)}/")
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        about = text.splitlines()[0].rstrip(".") if text else ""
        indent = "      " if folder == PACKAGE else "        "
        if path.name != "__init__.py" or about:
            lines.append(f"{indent}{path.name:<24}{about}".rstrip())
    return "\n".join(lines)


def quickstart(folder: Path) -> str:
    """The quickstart's table and verdict from its summary.json."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    lines = [
        f"What `make quickstart` ends with (seed {summary['seed']}, {summary['accuracy']['base']['n']} held-out prompts, one sample each):",
        "",
        "| arm | sampled accuracy (T=1) | greedy accuracy | chosen drift, nats |",
        "|---|---|---|---|",
    ]
    for arm, share in summary["accuracy"].items():
        greedy = summary["greedy"][arm]
        drift = (summary.get("chosen_drift") or {}).get(arm)
        cells = [
            f"{100 * s['mean']:.1f}% [{100 * s['low']:.1f}, {100 * s['high']:.1f}]" for s in (share, greedy)
        ]
        lines.append(f"| {arm} | {cells[0]} | {cells[1]} | {'' if drift is None else f'{drift:+.2f}'} |")
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in summary["verdict"])])


def put(text: str, name: str, inner: str) -> str:
    """Replace what stands between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{inner}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Write docs/architecture.md, and README.md where a run is given."""
    _rewrite(ROOT / "docs" / "architecture.md", "tree", tree())
    if len(sys.argv) > 1:
        _rewrite(ROOT / "README.md", "quickstart", quickstart(Path(sys.argv[1])))


def _rewrite(path: Path, name: str, inner: str) -> None:
    path.write_text(put(path.read_text(encoding="utf-8"), name, inner), encoding="utf-8")


if __name__ == "__main__":
    main()
