"""Disks that are full, files that may not grow and memory that is short: one line, nothing lost, the run goes on later."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.figures import Figures, contents, difference
from chaos.worlds import SHORT, World

NAMES = ("train", "sample", "reference", "evaluate", "whole", "data", "reward")
MIB = 2**20


def may_mount(folder: Path) -> bool:
    """Whether a small file system can be mounted here (root, and a kernel that lets it)."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    try:
        with small_disk(folder / "probe", 64 * 1024):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `folder`, in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def full_disks(world: World, folder: Path, count: int, seed: int) -> Figures:
    """Commands on a disk that is too small, then on the same disk made larger."""
    figures = Figures()
    rng = random.Random(seed)
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        need = sum(path.stat().st_size for path in world.reference(name).rglob("*") if path.is_file())
        size = max(4096, int(need * rng.uniform(0.02, 1.6)))
        with small_disk(folder / f"disk-{number}", size) as home:
            argv = [*world.argv(name), "--output", "out"]
            outcome = world.host.run(argv, home, timeout_s=300)
            subprocess.run(
                ["mount", "-o", f"remount,size={64 * MIB + 8 * need}", home], check=True, capture_output=True
            )
            _finish(world, name, home, argv, outcome, f"a disk of {size} bytes", figures)
    return figures


def read_only(world: World, folder: Path) -> Figures:
    """What can be done with finished work on a disk that nobody can write to."""
    figures = Figures()
    with small_disk(folder / "read-only", 64 * MIB) as home:
        for name in ("arms", "select", "train"):
            shutil.copytree(world.reference(name), home / name)
        subprocess.run(["mount", "-o", "remount,ro", home], check=True, capture_output=True)
        commands = [
            ([*world.argv("arms"), "--output", str(home / "arms")], (0,)),
            ([*world.argv("select"), "--output", str(home / "select")], (0,)),
            (["report", str(home / "arms"), "--output", "page.html"], (0,)),
            (["report", str(home / "arms")], (2,)),
            (["verify", str(home / "arms")], (0,)),
            (
                [
                    "inspect",
                    "--input",
                    str(home / "arms" / "03-rank"),
                    "--model",
                    str(home / "train" / "model"),
                ],
                (0,),
            ),
            (["weigh", "--input", str(home / "select"), "--output", "out"], (0,)),
            (
                [
                    "evaluate",
                    "--input",
                    str(home / "select"),
                    "--model",
                    str(home / "train" / "model"),
                    "--output",
                    "e",
                    *SHORT,
                ],
                (0,),
            ),
            ([*world.argv("select"), "--output", str(home / "new")], (2,)),
            ([*world.argv("select"), "--seed", "5", "--output", str(home / "select")], (2,)),
        ]
        for argv, ends in commands:
            outcome = world.host.run(argv, folder, timeout_s=300)
            is_right = outcome.code in ends and (outcome.code == 0 or outcome.is_refusal)
            figures.tracebacks += outcome.has_traceback
            figures.note("" if is_right else outcome.shown(), refused=outcome.code == 2)
    return figures


def small_files(world: World, folder: Path, count: int, seed: int) -> Figures:
    """Commands that may write no file beyond a size (RLIMIT_FSIZE)."""
    return _limited(world, folder, count, seed, "FSIZE", lambda rng: int(10 ** rng.uniform(2.0, 6.8)))


LOADER_GAVE_UP = "cannot allocate memory for thread-local data: ABORT"  # glibc, dl-tls.c: then _exit(127)


def little_memory(world: World, folder: Path, count: int, seed: int) -> Figures:
    """Commands whose address space may grow by a few MiB only (RLIMIT_AS)."""
    return _limited(world, folder, count, seed, "AS", lambda rng: int(rng.uniform(4, 200) * MIB))


def _limited(world: World, folder: Path, count: int, seed: int, kind: str, draw: object) -> Figures:
    assert callable(draw)
    figures = Figures()
    rng = random.Random(seed)
    for number in range(count):
        name, limit = NAMES[number % len(NAMES)], draw(rng)
        home = folder / "limited"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        argv = [*world.argv(name), "--output", "out"]
        outcome = world.host.run(argv, home, timeout_s=300, limits={kind: limit})
        _finish(world, name, home, argv, outcome, f"{kind} {limit}", figures)
    return figures


def _finish(
    world: World, name: str, home: Path, argv: list[str], outcome: object, what: str, figures: Figures
) -> None:
    from chaos.driving import Outcome

    assert isinstance(outcome, Outcome)
    ended = world.host.run(argv, home, timeout_s=300)
    problem = ""
    # a library in C++ or Rust gave up by itself, or the loader of C: nothing of ours is asked
    by_signal = outcome.code < 0 or (outcome.code == 127 and LOADER_GAVE_UP in outcome.stderr)
    if not by_signal and outcome.code != 0 and not outcome.is_refusal:
        problem = f"{name} with {what}: {outcome.shown()}"
    elif ended.code != 0:
        problem = f"{name} after {what}: {ended.shown()}"
    elif found := _unlike(world.reference(name), home / "out", by_bytes=not what.startswith("AS")):
        problem = f"{name} after {what}: {found}"
    figures.tracebacks += outcome.has_traceback + ended.has_traceback
    figures.note(problem, refused=outcome.code == 2, whole=outcome.code == 0, ended_by_signal=by_signal)


def _unlike(expected: Path, found: Path, *, by_bytes: bool) -> str:
    """What differs. With little memory the libraries take other kernels where they find no room, and round otherwise: names alone."""
    ours, theirs = contents(expected), contents(found)
    if by_bytes:
        return difference(ours, theirs)
    return difference(dict.fromkeys(ours, b""), dict.fromkeys(theirs, b""))
