"""Hold the package against the rules of docs/architecture.md: arrows of imports run one way, without circles.

    python tools/layout.py [--table]

Every import counts, also those inside functions and under TYPE_CHECKING. Prints what is broken, then
"N modules, N circles, N broken rules"; exits 1 if there is any. --table prints lines per folder in Markdown.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "prefopt"
# folder -> what it may import besides itself
LOW = ("core",)
TABLES = (*LOW, "tables", "losses", "rules")
SCORING = (*TABLES, "models", "scoring")
JUDGES = (*SCORING, "training", "engines", "verify", "judges")
STAGES = (*JUDGES, "stages")
ALLOWED: dict[str, tuple[str, ...]] = {
    "core": (),
    "losses": LOW,
    "rules": LOW,
    "tables": (*LOW, "rules"),
    "models": TABLES,
    "scoring": (*TABLES, "models"),
    "training": SCORING,
    "engines": SCORING,
    "verify": (*SCORING, "engines"),
    "judges": (*SCORING, "engines", "verify"),
    "recipes": LOW,
    "stages": JUDGES,
    "report": STAGES,
    "pipeline": (*STAGES, "report", "recipes"),
    "tools": (*STAGES, "report", "recipes", "pipeline"),
    "suite": TABLES,
    "cli": (*STAGES, "report", "recipes", "pipeline", "tools", "suite"),
    "__main__": ("cli",),
}
SETTINGS_MAY_NOT = tuple(f"prefopt.stages.{name}.{name}" for name in (
    "data", "sample", "judge", "rank", "reference", "select", "weight", "train", "evaluate",
))  # fmt: skip


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> set[tuple[str, str]]:
    """What a file takes from the package: (module, name); the name is empty where the module itself is taken."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add((whole, "") if whole in known else (str(node.module), alias.name))
    return found


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, directly or not (strongly connected components; Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            place = stack.index(name)
            if len(stack) - place > 1:
                found.append(sorted(stack[place:]))
            del stack[place:]

    for name in sorted(arrows):
        if name not in order:
            visit(name)
    return found


def folder_of(module: str) -> str:
    """The part of the package that a module belongs to; empty for the package's own face."""
    return [*module.split("."), ""][1]


def broken(taken: Mapping[str, set[tuple[str, str]]]) -> Iterator[str]:
    """Imports against the rules, one line each."""
    for module, used in taken.items():
        home = folder_of(module)
        for other, name in sorted(used):
            there = folder_of(other)
            if home and there and there != home and there not in ALLOWED.get(home, ()):
                yield f"{module} imports {other}: {home} may not use {there}"
            if there != home and name.startswith("_") and not name.startswith("__"):
                yield f"{module} takes {other}.{name}, which is private there"
            if module.endswith(".settings") and home == "stages" and other in SETTINGS_MAY_NOT:
                yield f"{module} imports {other}: settings import no stage"
    for folder in sorted({folder_of(module) for module in taken} - set(ALLOWED) - {""}):
        yield f"prefopt.{folder} has no row in the table of rules"


def table(known: Mapping[str, Path]) -> str:
    """Files and lines per folder, in Markdown."""
    sizes: dict[str, list[int]] = {}
    for module, path in known.items():
        if folder_of(module):
            sizes.setdefault(folder_of(module), []).append(len(path.read_text(encoding="utf-8").splitlines()))
    rows = [f"| {folder} | {len(lines)} | {sum(lines):,} |" for folder, lines in sorted(sizes.items())]
    total = [lines for each in sizes.values() for lines in each]
    return "\n".join(
        ["| folder | files | lines |", "|---|---|---|", *rows, f"| all | {len(total)} | {sum(total):,} |"]
    )


def main() -> int:
    """Print what is broken; 1 if anything is."""
    known = modules()
    if "--table" in sys.argv:
        print(table(known))
        return 0
    taken = {name: imports(path, known) for name, path in known.items()}
    # the package's face may name all of it
    inner = {name: {other for other, _ in used if other != name} for name, used in taken.items()}
    inner = {name: used for name, used in inner.items() if name != "prefopt"}
    for used in inner.values():
        used.discard("prefopt")
    rings = circles(inner)
    rules = list(broken(taken))
    for ring in rings:
        print(f"circle: {', '.join(ring)}")
    for line in rules:
        print(line)
    print(f"{len(known)} modules, {len(rings)} circles, {len(rules)} broken rules")
    return 1 if rings or rules else 0


if __name__ == "__main__":
    sys.exit(main())
