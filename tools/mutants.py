"""A mutation pass: single places of the code are changed, and the tests of that part have to notice.

    python tools/mutants.py [--areas losses rules] [--per-area 10] [--seed 0] [--output FILE.json]

Those of `made_mutants` are tried, and places drawn by the seed from all comparisons, sums, products, numbers, `and`/`or` and `not` of an area's files (texts,
annotations, defaults of settings and drawings left out). A mutant is killed when the area's tests fail or outlast their
limit. Survivors are listed; `EQUIVALENT` says of which it is known that no test could tell them from the code, and why.
Exits 1 when fewer than 95% of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from made_mutants import MADE

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "src/prefopt"
IMPORTED = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that others have imported, which fork as they are
SAID = "said.txt"  # what the tests of a mutant say, beside the copy of the code
_LOSSES = tuple(
    f"tests/losses/test_{name}.py" for name in ("coupled", "recipe", "regularizers", "ops", "table")
)
_SHARED = ("tests/scoring/test_shared.py", "tests/training/test_rows.py")
_STEP = (
    "tests/training/test_step.py",
    "tests/training/test_metrics.py",
    "tests/training/test_trl_step.py",
    "tests/training/test_trainer.py",
)
# area -> file -> the tests that have to notice
AREAS: dict[str, dict[str, tuple[str, ...]]] = {
    "losses": dict.fromkeys(
        (f"losses/{name}.py" for name in ("pairwise", "unpaired", "shapes", "links", "regularizers", "recipe")), _LOSSES
    ),
    "scoring": {
        "scoring/packing.py": ("tests/scoring/test_packing.py", *_SHARED),
        "scoring/masks.py": _SHARED,
        "scoring/shared.py": _SHARED,
        "scoring/logprobs.py": ("tests/scoring/test_logprobs.py", "tests/scoring/test_marks.py"),
        "scoring/head.py": ("tests/scoring/test_head.py", "tests/scoring/test_logprobs.py"),
        "scoring/segments.py": ("tests/scoring/test_segments.py", *_SHARED),
        "scoring/store.py": ("tests/scoring/test_store.py",),
    },
    "training": {
        "training/step.py": _STEP,
        "training/collate.py": ("tests/training/test_step.py", "tests/training/test_rows.py", *_STEP[1:]),
        "training/metrics.py": ("tests/training/test_metrics.py", "tests/training/test_step.py"),
        "training/forward.py": _STEP,
        "training/schedule.py": ("tests/training/test_schedule.py",),
    },
    "rules": {
        f"rules/{name}.py": (f"tests/rules/test_{test}.py",)
        for name, test in {
            "selection": "selection",
            "weights": "weights",
            "tournament": "tournament",
            "standing": "tournament",
            "pairing": "pairing",
            "intervals": "intervals",
            "describe": "stats",
            "order": "stats",
        }.items()
    },
    "verify": {
        "verify/answers.py": ("tests/verify",),
        "verify/__init__.py": ("tests/verify",),
        "judges/parse.py": ("tests/judges/test_parse.py",),
    },
    "reading": {
        f"stages/data/reading/{name}.py": tuple(f"tests/stages/data/{test}.py" for test in tests)
        for name, tests in {
            "checks": ("test_data", "reading/test_formats", "reading/test_public_forms"),
            "dialogue": ("reading/test_formats", "reading/test_public_forms", "test_data"),
            "naming": ("test_data",),
            "recognise": ("reading/test_public_forms", "reading/test_formats", "test_data"),
            "readers": ("reading/test_readers", "reading/test_sources", "test_data"),
            "completions": ("reading/test_formats", "test_data"),
            "stored_text": ("reading/test_public_forms", "reading/test_formats"),
            "strict_json": ("reading/test_readers",),
        }.items()
    },
    "resume": {
        "tables/folder.py": ("tests/stages/test_running.py", "tests/tables", "tests/stages/rank/test_rank.py", "tests/stages/reference/test_reference.py"),
        "tables/journal.py": ("tests/tables", "tests/stages/rank/test_rank.py"),
        "stages/running.py": (
            "tests/stages/test_running.py","tests/stages/rank/test_rank.py", "tests/stages/reference/test_reference.py", "tests/cli/test_retry.py"),
        "training/checkpoints.py": ("tests/training/test_checkpoints.py", "tests/training/test_trainer.py"),
    },
}  # fmt: skip
# place of a survivor, as it is listed -> why no test can tell it from the code
EQUIVALENT: dict[str, str] = {}
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
LEAST = 0.95
TRUSTED_S = 1200.0


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
    def tests(self) -> tuple[str, ...]:
        """The tests that have to notice."""
        return AREAS[self.area][self.file]

    @property
    def name(self) -> str:
        """How survivors are listed."""
        return " ".join(f"{self.file}:{self.line}: {self.before}  ->  {self.after}".split())


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


def made(areas: Sequence[str]) -> list[Mutant]:
    """The mutants made by hand."""
    found = []
    for area, file, before, after in MADE:
        if area not in areas:
            continue
        raw = (ROOT / SOURCE / file).read_bytes()
        if raw.count(before.encode()) != 1:
            raise SystemExit(
                f"{file}: {before!r} stands there {raw.count(before.encode())} times; mend the mutant"
            )
        start = raw.index(before.encode())
        line = raw[:start].count(b"\n") + 1
        found.append(Mutant(area, file, line, before, after, start, start + len(before.encode())))
    return found


def draw(areas: Sequence[str], per_area: int, seed: int) -> list[Mutant]:
    """As many mutants of each area as wanted, drawn by the seed alone."""
    chosen = []
    for area in areas:
        every = [mutant for file in AREAS[area] for mutant in mutants_of(area, file)]
        chosen += random.Random(f"{seed} {area}").sample(every, min(per_area, len(every)))
    return chosen


def warm_up() -> None:
    """Import what tests import of others, once; each mutant's tests run in a fork that has it, prefopt not."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("pytest", "numpy", "torch", "datasets", "transformers.trainer", "peft", "jax"):
        importlib.import_module(name)
    if any(name.split(".")[0] == "prefopt" for name in sys.modules):
        raise SystemExit("prefopt is imported before its mutants; start this as a script of its own")


def run_tests(source: Path, tests: Sequence[str], limit_s: float) -> tuple[str, float]:
    """passed, failed or timeout of the tests on the package below `source`, and the seconds that it took."""
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _be_tester(source, tests)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        spent = time.perf_counter() - start
        if done:
            return "passed" if status == 0 else "failed", spent
        if spent > limit_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", spent
        time.sleep(0.05)


def _be_tester(source: Path, tests: Sequence[str]) -> NoReturn:
    code = 1
    try:
        os.setsid()  # what the tests start ends with them
        said = os.open(source / SAID, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = str(source)
        sys.path.insert(0, str(source))
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", IMPORTED, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _digest(paths: Sequence[Path]) -> str:
    """SHA-256 over files, folders as all the Python files within."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()


def still_holds(mutant: Mutant, row: dict[str, Any] | None) -> bool:
    """Whether an earlier result counts: the same file, and, for a survivor, the same tests."""
    if row is None or row["source"] != _digest([ROOT / SOURCE / mutant.file]):
        return False
    return row["killed"] or row["tests"] == _digest([ROOT / test for test in mutant.tests])


class Trial:
    """A copy of the code in which one mutant at a time stands."""

    def __init__(self, source: Path, trust: bool) -> None:
        self.source, self.trust = source, trust
        self._limits: dict[tuple[str, ...], float] = {}

    def limit(self, tests: tuple[str, ...]) -> float:
        """Seconds that the tests may take; they must pass on the unchanged code."""
        if self.trust:
            return TRUSTED_S
        if tests not in self._limits:
            outcome, seconds = run_tests(self.source, tests, 1800)
            if outcome != "passed":
                print((self.source / SAID).read_text(errors="replace")[-4000:])
                raise SystemExit(f"{' '.join(tests)}: does not pass on the unchanged code ({outcome})")
            print(f"unchanged {seconds:5.0f} s  {' '.join(tests)}", flush=True)
            self._limits[tests] = 60 + 3 * seconds
        return self._limits[tests]

    def row(self, mutant: Mutant) -> dict[str, Any]:
        """Put the mutant in, run its tests, put the code back."""
        limit = self.limit(mutant.tests)
        path = self.source / "prefopt" / mutant.file
        raw = path.read_bytes()
        text = raw[: mutant.start] + mutant.after.encode() + raw[mutant.end :]
        compile(text, mutant.name, "exec")  # what is no Python would be killed by any test
        _put(path, text)
        try:
            outcome, seconds = run_tests(self.source, mutant.tests, limit)
        finally:
            _put(path, raw)
        print(
            f"{'SURVIVED' if outcome == 'passed' else 'killed  '} {seconds:5.0f} s  {mutant.name}", flush=True
        )
        return {
            "area": mutant.area,
            "place": mutant.name,
            "killed": outcome != "passed",
            "source": _digest([ROOT / SOURCE / mutant.file]),
            "tests": _digest([ROOT / test for test in mutant.tests]),
        }


def _put(path: Path, text: bytes) -> None:
    """Write a module; what was compiled of it goes, since within a second it might be taken for the new one's."""
    path.write_bytes(text)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def try_all(chosen: Sequence[Mutant], output: Path | None, *, trust: bool = False) -> list[dict[str, Any]]:
    """Run every mutant against its tests; results go to `output` one by one, and those that still hold are kept."""
    known = json.loads(output.read_text(encoding="utf-8"))["rows"] if output and output.is_file() else []
    before = {row["place"]: row for row in known}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        trial = Trial(source, trust)
        for mutant in chosen:
            old = before.get(mutant.name)
            row = old if old and still_holds(mutant, old) else trial.row(mutant)
            before[mutant.name] = row
            rows.append(row)
            if output:
                _write(output, list(before.values()))
    if output:
        _write(output, rows)
    return rows


def _write(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    counted, killed = counts(rows)
    about = {"killed": killed, "counted": counted, "equivalent": len(rows) - counted}
    text = json.dumps(about | {"rows": rows}, indent=1) + "\n"
    temporary = output.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, output)


def counts(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Mutants that count, and how many of them were killed."""
    counted = [row for row in rows if row["killed"] or row["place"] not in EQUIVALENT]
    return len(counted), sum(row["killed"] for row in counted)


def main() -> int:
    """Draw, try, report; 1 where too few are killed."""
    parser = argparse.ArgumentParser(description="mutation pass over the parts that decide results")
    parser.add_argument("--areas", nargs="+", choices=list(AREAS), default=list(AREAS))
    parser.add_argument(
        "--per-area", type=int, default=5, help="mutants drawn of each area, beside those made by hand"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file of results; a run goes on from what it holds")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="the tests are known to pass: do not run them on the unchanged code",
    )
    options = parser.parse_args()
    os.nice(10)
    warm_up()
    chosen = [*made(options.areas), *draw(options.areas, options.per_area, options.seed)]
    rows = try_all(
        sorted(chosen, key=lambda mutant: list(AREAS).index(mutant.area)), options.output, trust=options.trust
    )
    counted, killed = counts(rows)
    share = killed / max(1, counted)
    for row in rows:
        if not row["killed"]:
            print(f"survivor: {row['place']}  {EQUIVALENT.get(row['place'], '')}")
    print(f"{killed} of {counted} killed ({share:.1%}); {len(rows) - counted} known to be equivalent")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
