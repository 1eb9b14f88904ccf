"""Files of a run that are gone, cut or full of junk: what was lost is done anew, the result is the undisturbed one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from chaos.figures import Figures, contents, difference
from chaos.kills import operations
from chaos.worlds import World

KINDS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "gone": lambda data, rng: None,
    "cut": lambda data, rng: data[: len(data) // 2],
    "junk": lambda data, rng: rng.randbytes(len(data)),
    "empty": lambda data, rng: b"",
    "one bit": lambda data, rng: flipped(data, rng),
}


def flipped(data: bytes, rng: random.Random) -> bytes:
    """The data with one bit turned."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def cut_run(world: World, name: str, home: Path, tries: int = 5) -> Path:
    """A training killed where as many checkpoints as possible are whole; its folder."""
    argv = [*world.argv(name), "--output", "out"]
    count = operations(world, name, home / "counted")
    found: list[tuple[int, Path]] = []
    for number in range(tries):
        place = home / str(number)
        place.mkdir(parents=True)
        world.host.run(argv, place, watch=place, die_at=round(count * (0.4 + 0.5 * number / tries)))
        found.append((len(list(place.glob("out/checkpoints/*/COMPLETE"))), place / "out"))
    most, best = max(found, key=lambda pair: pair[0])
    assert most, f"{name}: no checkpoint is left by a kill"
    return best


def checkpoints(
    world: World, folder: Path, seed: int, names: tuple[str, ...], most: int | None = None
) -> Figures:
    """Each file of the last checkpoint of a cut training, damaged in each way; also all checkpoints at once."""
    figures = Figures()
    rng = random.Random(seed)
    for name in names:
        cut = cut_run(world, name, folder / f"cut-{name}".replace(" ", "-"))
        whole = sorted(path.parent for path in cut.glob("checkpoints/*/COMPLETE"))
        files = [path.relative_to(cut) for path in sorted(whole[-1].rglob("*")) if path.is_file()]
        tries = [([file], kind) for file in files for kind in KINDS]
        every = [
            path.relative_to(cut) for home in whole for path in sorted(home.rglob("*")) if path.is_file()
        ]
        tries += [(every, kind) for kind in KINDS if kind != "one bit"]
        if most is not None:
            tries = rng.sample(tries, min(most // len(names), len(tries)))
        for chosen, kind in tries:
            _attempt(world, name, cut, folder / "try", chosen, kind, rng, figures)
    return figures


def finished(world: World, folder: Path, seed: int, name: str = "whole", most: int | None = None) -> Figures:
    """Files of a finished run, damaged in each way: the run does them anew; what has its size still, once `verify` has named it."""
    figures = Figures()
    rng = random.Random(seed)
    done = world.reference(name)
    files = [
        path.relative_to(done)
        for path in sorted(done.rglob("*"))
        if path.suffix in (".parquet", ".safetensors", ".json")
        and path.name not in ("timings.parquet", "summary.json")
    ]
    tries = [([file], kind) for file in files for kind in ("gone", "cut", "junk")]
    if most is not None:
        tries = rng.sample(tries, min(most, len(tries)))
    for chosen, kind in tries:
        _attempt(
            world,
            name,
            done,
            folder / "try",
            chosen,
            kind,
            rng,
            figures,
            verified=kind == "junk" and chosen[0].name != "manifest.json",
        )
    return figures


def _attempt(
    world: World,
    name: str,
    source: Path,
    home: Path,
    files: list[Path],
    kind: str,
    rng: random.Random,
    figures: Figures,
    *,
    verified: bool = False,
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(source, home / "out")
    for file in files:
        path = home / "out" / file
        data = KINDS[kind](path.read_bytes(), rng) if path.stat().st_size else None
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
    looked = world.host.run(["verify", "out"], home) if verified else None
    outcome = world.host.run([*world.argv(name), "--output", "out"], home, timeout_s=300)
    what = f"{name}: {files[0] if len(files) == 1 else 'every file of all checkpoints'} {kind}"
    problem = ""
    if looked is not None and (
        looked.code != 1
        or "Traceback" in looked.stderr
        or str(files[0]) not in looked.stdout.replace(": ", "/")
    ):
        problem = f"{what}: {looked.shown()} {looked.stdout[-200:]}"
    elif outcome.has_traceback or outcome.code not in (0, 2):
        problem = f"{what}: {outcome.shown()}"
    elif outcome.is_refusal and files[0].name == "manifest.json":
        problem = ""  # nothing says that the folder is ours: it is left as it is, in one line
    elif outcome.code == 2:
        problem = f"{what}: refused: {outcome.shown()}"
    elif found := difference(contents(world.reference(name)), contents(home / "out")):
        problem = f"{what}: {found}"
    figures.tracebacks += outcome.has_traceback
    figures.note(problem)
