"""A mutation pass: single places of the code are changed, and the tests of that part have to notice.

    python tools/mutants.py [--areas losses rules] [--per-area 10] [--seed 0] [--output FILE.json]

Places are drawn by the seed from all comparisons, sums, products, numbers, `and`/`or` and `not` of an area's files (texts,
annotations, defaults of settings and drawings left out). A mutant is killed when the area's tests fail or outlast their
limit. Survivors are listed; `EQUIVALENT` says of which it is known that no test could tell them from the code, and why.
Exits 1 when fewer than 95% of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "src/prefopt"
# area -> (files, tests that have to notice)
AREAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "losses": (
        ("losses/pairwise.py", "losses/unpaired.py", "losses/shapes.py", "losses/links.py", "losses/regularizers.py", "losses/recipe.py"),
        ("tests/losses/test_table.py", "tests/losses/test_recipe.py", "tests/losses/test_regularizers.py", "tests/losses/test_coupled.py", "tests/losses/test_mirror.py"),
    ),
    "scoring": (
        ("scoring/packing.py", "scoring/masks.py", "scoring/logprobs.py", "scoring/head.py", "scoring/shared.py", "scoring/segments.py", "scoring/store.py"),
        ("tests/scoring/test_packing.py", "tests/scoring/test_head.py", "tests/scoring/test_segments.py", "tests/scoring/test_shared.py", "tests/scoring/test_store.py", "tests/scoring/test_logprobs.py"),
    ),
    "training": (
        ("training/step.py", "training/collate.py", "training/metrics.py", "training/forward.py"),
        ("tests/training/test_metrics.py", "tests/training/test_trl_step.py", "tests/training/test_trainer.py", "tests/training/test_rows.py"),
    ),
    "rules": (
        ("rules/selection.py", "rules/weights.py", "rules/tournament.py", "rules/standing.py", "rules/pairing.py", "rules/intervals.py", "rules/describe.py", "rules/order.py"),
        ("tests/rules",),
    ),
    "verify": (("verify/answers.py", "verify/__init__.py", "judges/parse.py"), ("tests/verify", "tests/judges/test_parse.py")),
    "reading": (
        ("stages/data/reading/checks.py", "stages/data/reading/converters.py", "stages/data/reading/dialogue.py", "stages/data/reading/naming.py", "stages/data/reading/strict_json.py"),
        ("tests/stages/data",),
    ),
    "resume": (
        ("tables/folder.py", "tables/journal.py", "stages/running.py", "training/checkpoints.py"),
        ("tests/tables", "tests/stages/rank/test_rank.py", "tests/stages/reference/test_reference.py", "tests/training/test_trainer.py", "tests/cli/test_retry.py"),
    ),
}  # fmt: skip
# (file, what stands there, what was put there) -> why no test can tell them apart
EQUIVALENT: dict[tuple[str, str, str], str] = {}
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
LEAST = 0.95


@dataclass(frozen=True)
class Mutant:
    """One changed place: file below the package, line, what stood there and what stands there now."""

    area: str
    file: str
    line: int
    before: str
    after: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """How survivors are listed."""
        return f"{self.file}:{self.line}: {self.before}  ->  {self.after}"


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one thing changed, or None where this kind is left as it is."""
    new: Any = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        new.ops = [SWAPS[type(node.ops[0])]()]
    elif (isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not _is_text(node)) or isinstance(
        node, ast.BoolOp
    ):
        new.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        new = new.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        new.value = node.value + 1
    else:
        return None
    return new


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(side, ast.JoinedStr | ast.Constant) and isinstance(getattr(side, "value", ""), str) for side in (node.left, node.right))  # fmt: skip


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes within functions, without annotations, defaults, error texts and calls of Field."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        stack: list[ast.AST] = list(function.body)
        while stack:
            node = stack.pop()
            if isinstance(node, ast.FunctionDef | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.AnnAssign):
                stack += [node.value] if node.value else []
                continue
            yield node
            stack += list(ast.iter_child_nodes(node))


def mutants_of(area: str, file: str) -> list[Mutant]:
    """Every mutant of a file, in the order of their places."""
    text = (ROOT / SOURCE / file).read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw, found = text.encode(), {}
    for node in _places(ast.parse(text)):
        new = changed(node)
        if new is None:
            continue
        begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        before, after = raw[begin:end].decode(), ast.unparse(new)
        found[begin, end] = Mutant(area, file, node.lineno, before, f"({after})", begin, end)  # type: ignore[attr-defined]
    return [found[place] for place in sorted(found)]


def draw(areas: Sequence[str], per_area: int, seed: int) -> list[Mutant]:
    """As many mutants of each area as wanted, drawn by the seed alone."""
    chosen = []
    for area in areas:
        every = [mutant for file in AREAS[area][0] for mutant in mutants_of(area, file)]
        chosen += random.Random(f"{seed} {area}").sample(every, min(per_area, len(every)))
    return chosen


def run_tests(source: Path, tests: Sequence[str], limit_s: float) -> tuple[str, float]:
    """passed, failed or timeout, and the seconds that it took."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *tests,
    ]
    environment = os.environ | {
        "PYTHONPATH": str(source),
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_DATABASE_FILE": os.devnull,
    }
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return "timeout", time.perf_counter() - start
    return "passed" if done.returncode == 0 else "failed", time.perf_counter() - start


def try_all(chosen: Sequence[Mutant]) -> list[dict[str, Any]]:
    """Run every mutant against the tests of its area; the unchanged code goes first, and must pass."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        limits: dict[str, float] = {}
        for mutant in chosen:
            tests = AREAS[mutant.area][1]
            if mutant.area not in limits:
                outcome, seconds = run_tests(source, tests, 1800)
                if outcome != "passed":
                    raise SystemExit(
                        f"{mutant.area}: the tests do not pass on the unchanged code ({outcome})"
                    )
                limits[mutant.area] = 60 + 3 * seconds
            path = source / "prefopt" / mutant.file
            raw = path.read_bytes()
            path.write_bytes(raw[: mutant.start] + mutant.after.encode() + raw[mutant.end :])
            outcome, seconds = run_tests(source, tests, limits[mutant.area])
            path.write_bytes(raw)
            reason = EQUIVALENT.get((mutant.file, mutant.before, mutant.after), "")
            rows.append(
                {
                    "area": mutant.area,
                    "place": mutant.name,
                    "killed": outcome != "passed",
                    "equivalent": reason,
                }
            )
            print(
                f"{'killed  ' if outcome != 'passed' else 'SURVIVED'} {seconds:5.0f} s  {mutant.name}",
                flush=True,
            )
    return rows


def main() -> int:
    """Draw, try, report; 1 where too few are killed."""
    parser = argparse.ArgumentParser(description="mutation pass over the parts that decide results")
    parser.add_argument("--areas", nargs="+", choices=list(AREAS), default=list(AREAS))
    parser.add_argument("--per-area", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = try_all(draw(options.areas, options.per_area, options.seed))
    counted = [row for row in rows if row["killed"] or not row["equivalent"]]
    killed = sum(row["killed"] for row in counted)
    share = killed / max(1, len(counted))
    for row in rows:
        if not row["killed"]:
            print(f"survivor: {row['place']}{'  (' + row['equivalent'] + ')' if row['equivalent'] else ''}")
    print(
        f"{killed} of {len(counted)} killed ({share:.1%}); {len(rows) - len(counted)} known to be equivalent"
    )
    if options.output:
        about = {
            "seed": options.seed,
            "per_area": options.per_area,
            "killed": killed,
            "counted": len(counted),
            "rows": rows,
        }
        options.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
