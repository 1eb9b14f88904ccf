"""Two processes at one place: one works, the other waits or says so, and what is there in the end is right."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from chaos.driving import Outcome
from chaos.figures import Figures, contents, difference
from chaos.worlds import World

ANOTHER = "another process"
NAMES = (
    "whole",
    "arms",
    "train",
    "sample",
    "reference",
    "reward",
    "train lora",
    "data pairs",
    "judge",
    "evaluate",
)


def run(world: World, folder: Path, pairs: int, seed: int, names: tuple[str, ...] = NAMES) -> Figures:
    """`pairs` pairs of the same command on one folder, the second at a random moment of the first."""
    figures = Figures()
    rng = random.Random(seed)
    for number in range(pairs):
        _pair(world, folder / "pair", names[number % len(names)], rng, figures)
    return figures


def _pair(world: World, home: Path, name: str, rng: random.Random, figures: Figures) -> None:
    expected = contents(world.reference(name))
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    argv = [*world.argv(name), "--output", "out"]
    first = world.host.start(argv, home, timeout_s=300)
    time.sleep(rng.choice((0.0, 0.0, rng.uniform(0.0, 0.3), rng.uniform(0.1, 1.0))))
    second = world.host.start(argv, home, timeout_s=300)
    outcomes = [first.wait(), second.wait()]
    problem = judged(outcomes)
    if not problem and (found := difference(expected, contents(home / "out"))):
        problem = f"afterwards {found}"
    last = world.host.run(argv, home)
    if not problem and (last.code != 0 or (found := difference(expected, contents(home / "out")))):
        problem = f"the command once more: {last.shown()} {found}"
    figures.tracebacks += sum(outcome.has_traceback for outcome in (*outcomes, last))
    said = sum(ANOTHER in outcome.stderr for outcome in outcomes)
    figures.note(f"two of {name}: {problem}" if problem else "", said_another_process=said)


def judged(outcomes: list[Outcome]) -> str:
    """What is wrong with the ends of two processes, if anything."""
    if all(outcome.code != 0 for outcome in outcomes):
        return f"neither ended well: {outcomes[0].shown()} | {outcomes[1].shown()}"
    for outcome in outcomes:
        if outcome.code != 0 and not (outcome.is_refusal and ANOTHER in outcome.stderr):
            return outcome.shown()
    return ""
