"""Commands killed at file operations, and at any time, then started again: they end as if nothing had been."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from chaos.figures import Figures, contents, difference
from chaos.worlds import World

TURNS = 60  # kills of one run; then it is left alone


def sweep(
    world: World, folder: Path, names: list[str], seed: int, share: float = 1.0, least: int = 2
) -> Figures:
    """Each command killed once at each (or at a drawn share) of its file operations and then run to its end."""
    figures = Figures()
    rng = random.Random(seed)
    for name in names:
        expected = contents(world.reference(name))
        count = operations(world, name, folder / "counted")
        places = range(1, count + 1)
        chosen = sorted(rng.sample(places, min(count, max(least, round(share * count)))))
        for place in chosen:
            _kill_once(world, folder / "killed", name, place, expected, figures)
    return figures


def operations(world: World, name: str, output: Path) -> int:
    """How many file operations the undisturbed command makes."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    outcome = world.host.run([*world.argv(name), "--output", "out"], output, watch=output)
    assert outcome.code == 0, outcome.shown()
    return outcome.operations or 0


def _kill_once(
    world: World, home: Path, name: str, place: int, expected: dict[str, bytes], figures: Figures
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    argv = [*world.argv(name), "--output", "out"]
    killed = world.host.run(argv, home, watch=home, die_at=place, tear=place % 2 == 0)
    ended = world.host.run(argv, home)
    problem = ""
    if killed.code != -9:
        problem = f"{name}: not killed at {place}: {killed.shown()}"
    elif ended.code != 0:
        problem = f"{name}: killed at {killed.died_at}, then {ended.shown()}"
    elif found := difference(expected, contents(home / "out")):
        problem = f"{name}: killed at {killed.died_at}, then {found}"
    figures.tracebacks += ended.has_traceback
    figures.note(problem, kills=1)


def chain(
    world: World, folder: Path, name: str, seed: int, *, reach: int = 40, turns: int = TURNS
) -> Figures:
    """One run killed up to `turns` times, after a few file operations or tenths of a second, then left to its end."""
    figures = Figures()
    expected = contents(world.reference(name))
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    argv = [*world.argv(name), "--output", "out"]
    places = []
    for turn in range(turns):
        if turn % 3 == 2:
            plan: dict[str, object] = {"kill_after_s": rng.uniform(0.05, 0.6)}
        else:
            plan = {"watch": folder, "die_at": rng.randint(2, reach + turn), "tear": rng.random() < 0.5}
        outcome = world.host.run(argv, folder, timeout_s=300, **plan)
        if outcome.code != -9:
            break
        places.append(outcome.died_at or f"time {plan.get('kill_after_s')}")
    else:  # what is left of the work is done undisturbed
        outcome = world.host.run(argv, folder, timeout_s=300)
    figures.tracebacks += outcome.has_traceback
    problem = "" if outcome.code == 0 else f"{name}: after {places[-3:]}: {outcome.shown()}"
    if not problem and (found := difference(expected, contents(folder / "out"))):
        problem = f"{name} (seed {seed}, {len(places)} kills): {found}"
    # each kill was survived or none was: one comparison stands for all
    for place in places[:-1]:
        figures.note("" if not problem else f"{name}: one of the kills, {place}", kills=1)
    figures.note(problem, kills=1, runs=1)
    return figures
