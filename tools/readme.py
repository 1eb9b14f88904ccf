"""Write the generated parts of the documents: tree and sizes in docs/architecture.md, and in README.md the result of a finished quickstart.

    python tools/readme.py [runs/quickstart]

Without a run folder only docs/architecture.md is written anew. A test holds the tree against the code, and the sizes roughly.
"""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "prefopt"


def tree() -> str:
    """One line per file of the package: its path below src/prefopt, and the first line of its docstring."""
    lines = ["    src/prefopt/"]
    for path in sorted(PACKAGE.rglob("*.py"), key=_place):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        about = text.splitlines()[0].rstrip(".") if text else ""
        name = path.relative_to(PACKAGE)
        if name.name == "__init__.py" and path.parent != PACKAGE:
            name = f"{name.parent}/"
            if not about:
                continue
        lines.append(f"      {name!s:<40}{about}".rstrip())
    return "\n".join(lines)


def _place(path: Path) -> tuple[bool, Path, bool, Path]:
    """Files of the package itself first; in a folder `__init__.py` first."""
    parent = path.relative_to(PACKAGE).parent
    return (len(parent.parts) > 0, parent, path.name != "__init__.py", path)


def sizes() -> str:
    """Files and lines per folder, as `python tools/layout.py --table` prints them."""
    layout = runpy.run_path(str(ROOT / "tools" / "layout.py"))
    return layout["table"](layout["modules"]())


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
    _rewrite(ROOT / "docs" / "architecture.md", "sizes", sizes())
    _rewrite(ROOT / "docs" / "architecture.md", "tree", tree())
    if len(sys.argv) > 1:
        _rewrite(ROOT / "README.md", "quickstart", quickstart(Path(sys.argv[1])))


def _rewrite(path: Path, name: str, inner: str) -> None:
    path.write_text(put(path.read_text(encoding="utf-8"), name, inner), encoding="utf-8")


if __name__ == "__main__":
    main()
