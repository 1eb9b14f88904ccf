"""Commands told to write where something of somebody else lies: nothing that was there is deleted or changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.figures import Figures, spread
from chaos.worlds import CHAIN, World

# what people keep under names that a stage's folder has too
USERS = {
    "model/model.safetensors": b"my weights", "model/config.json": b"{}", "store/part-00000.parquet": b"mine",
    "checkpoints/checkpoint-5/optimizer.pt": b"mine", "part-00000.parquet": b"mine", "part-00007.parquet": b"mine",
    "manifest.json": b'{"mine": true}', "key.json": b'{"mine": 1}', "report.html": b"<p>mine</p>", "notes.txt": b"mine",
    "timings.parquet": b"mine", "summary.json": b'{"mine": 2}', ".work/mine.txt": b"mine", ".mine.tmp": b"mine",
    "check.json": b"{}", "clean.jsonl": b"mine", "judge-check.json": b"{}", "verdicts.jsonl": b"{}\n", "README.md": b"mine",
    "00-data/part-00000.parquet": b"mine", "07-train/model/model.safetensors": b"mine", "arms/a/notes": b"mine",
}  # fmt: skip
STAGE_VERBS = ("data", "sample", "judge", "rank", "reference", "select", "weigh", "train", "evaluate")
NUMBERED = {
    "data": "00-data", "sample": "01-sample", "judge": "02-judge", "rank": "03-rank", "reference": "04-reference",
    "select": "05-select", "weigh": "06-weight", "train": "07-train", "evaluate": "08-evaluate",
}  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """name: what is tried. lay(home): makes the folder and gives the words of the command, run in `home`."""

    name: str
    lay: Callable[[Path], list[str]]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file, folder and link below the folder, links not followed."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = b"-> " + os.fsencode(os.readlink(path))
        else:
            found[name] = path.read_bytes() if path.is_file() else b"folder"
    return found


def attempts(world: World) -> list[Attempt]:
    """All of them."""
    return [
        *_in_a_users_folder(world),
        *_onto_the_input(world),
        *_in_a_run(world),
        *_onto_a_model(world),
        *_odd(world),
    ]


def run(world: World, folder: Path, seed: int = 0, most: int | None = None) -> Figures:
    """Make the attempts (an evenly spread share of them where `most` says so) and look at what was there before."""
    figures = Figures()
    for attempt in spread(attempts(world), most, seed):
        home = folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        argv = attempt.lay(home)
        before = snapshot(home)
        outcome = world.host.run(argv, home / "at" if (home / "at").is_dir() else home)
        after = snapshot(home)
        lost = [name for name in before if name not in after]
        changed = [name for name in before if name in after and before[name] != after[name]]
        problem = ""
        if lost or changed:
            problem = f"{attempt.name}: lost {lost[:4]}, changed {changed[:4]}; {outcome.shown()}"
        elif outcome.has_traceback or outcome.code not in (0, 2):
            problem = f"{attempt.name}: {outcome.shown()}"
        figures.tracebacks += outcome.has_traceback
        figures.note(problem, files_lost=len(lost), files_changed=len(changed), refused=outcome.code == 2)
    return figures


def write_users(folder: Path) -> None:
    """A user's own files, under all names that prefopt uses."""
    for name, data in USERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _in_a_users_folder(world: World) -> Iterator[Attempt]:
    def here(verb: str) -> Callable[[Path], list[str]]:
        def lay(home: Path) -> list[str]:
            write_users(home)
            return [*world.argv(verb), "--output", "."]

        return lay

    for verb in (*STAGE_VERBS, "reward", "check", "judge-check", "whole"):
        yield Attempt(f"{verb} into a folder of the user's", here(verb))


def _with_input(argv: list[str], source: str, output: str) -> list[str]:
    argv = list(argv)
    argv[argv.index("--input") + 1] = source
    return [*argv, "--output", output]


def _onto_the_input(world: World) -> Iterator[Attempt]:
    before = dict(zip(list(CHAIN)[1:], list(CHAIN), strict=False)) | {"evaluate": "reference"}
    for verb, source in before.items():

        def lay(home: Path, verb: str = verb, source: str = source) -> list[str]:
            shutil.copytree(world.reference(source), home / "x")
            return _with_input(world.argv(verb), "x", "x")

        def bad(home: Path, verb: str = verb, source: str = source) -> list[str]:
            return [*lay(home, verb, source), "--no_such_setting", "1"]

        yield Attempt(f"{verb} --input X --output X", lay)
        if verb in ("judge", "select"):
            yield Attempt(f"{verb} --input X --output X with a slip", bad)

    def link(home: Path) -> list[str]:
        shutil.copytree(world.reference("reference"), home / "x")
        (home / "y").symlink_to("x")
        return _with_input(world.argv("select"), "x", "y")

    yield Attempt("select into a link to its input", link)


def _in_a_run(world: World) -> Iterator[Attempt]:
    def lay_run(home: Path) -> Path:
        run = home / "run"
        for verb in ("data", "sample", "judge", "rank", "reference", "select", "weigh", "train"):
            shutil.copytree(world.reference(verb), run / NUMBERED[verb])
        (run / "report.html").write_text("report")
        return run

    aims = [
        ("reference", "run/03-rank", "run"), ("select", "run/04-reference", "run"), ("judge", "run/01-sample", "run"),
        ("weigh", "run/05-select", "run"), ("train", "run/06-weight", "run"),
        ("select", "run/04-reference", "run/07-train"), ("judge", "run/01-sample", "run/03-rank"),
        ("weigh", "run/05-select", "run/04-reference"), ("train", "run/06-weight", "run/01-sample"),
        ("rank", "run/02-judge", "run/07-train/model"), ("evaluate", "run/04-reference", "run/07-train"),
        ("train", "run/06-weight", "run/06-weight/inner"),
    ]  # fmt: skip
    for verb, source, output in aims:

        def lay(home: Path, verb: str = verb, source: str = source, output: str = output) -> list[str]:
            lay_run(home)
            return _with_input(world.argv(verb), source, output)

        yield Attempt(f"{verb} --input {source} --output {output}", lay)


def _onto_a_model(world: World) -> Iterator[Attempt]:
    def with_model(argv: list[str], model: str, output: str) -> list[str]:
        argv = list(argv)
        argv[argv.index("--model") + 1] = model
        return [*argv, "--output", output]

    for verb in ("sample", "reference", "train", "reward", "evaluate"):
        for output in ("m/model", "m", ".", "m/model/new"):

            def lay(home: Path, verb: str = verb, output: str = output) -> list[str]:
                shutil.copytree(world.reference("train") / "model", home / "m" / "model")
                return with_model(world.argv(verb), "m/model", output)

            yield Attempt(f"{verb} --model m/model --output {output}", lay)


def _odd(world: World) -> Iterator[Attempt]:
    for name in ("..", ".", "...", "../up"):

        def recipe(home: Path, name: str = name) -> list[str]:
            write_users(home)
            (home / "at").mkdir()
            text = (world.root / "whole.yaml").read_text().replace("name: whole", f'name: "{name}"')
            (home / "at" / "r.yaml").write_text(text)
            return ["run", "r.yaml"]

        yield Attempt(f"a recipe named {name}", recipe)

    def links(home: Path) -> list[str]:
        write_users(home / "mine")
        (home / "out").mkdir()
        for name in ("model", "store", "checkpoints", ".work"):
            (home / "out" / name).symlink_to(home / "mine")
        return [*world.argv("data"), "--output", "out"]

    def finished_with_links(home: Path) -> list[str]:
        write_users(home / "mine")
        shutil.copytree(world.reference("select"), home / "mine" / "select")
        shutil.copytree(world.reference("data pairs"), home / "run-data")
        (home / "run-data" / "model").symlink_to(home / "mine")
        (home / "run-data" / "photo.png").write_bytes(b"mine")
        return ["data", "--input", "mine/notes.txt", "--output", "run-data"]

    def onto_file(home: Path) -> list[str]:
        write_users(home)
        return [*world.argv("data"), "--output", "notes.txt"]

    def report(home: Path) -> list[str]:
        write_users(home)
        return ["report", "."]

    def beside(home: Path) -> list[str]:
        write_users(home / "out" / "sub")
        return [*world.argv("data"), "--output", "out"]

    def adapter(home: Path) -> list[str]:
        shutil.copytree(world.reference("train lora") / "model", home / "adapter")
        return ["merge-adapter", "--adapter", "adapter", "--output", "adapter"]

    def adapter_onto_model(home: Path) -> list[str]:
        shutil.copytree(world.reference("train lora") / "model", home / "adapter")
        shutil.copytree(world.reference("train") / "model", home / "base")
        return ["merge-adapter", "--adapter", "adapter", "--model", "base", "--output", "base"]

    yield Attempt("data into a folder of links to the user's", links)
    yield Attempt("bad data into a finished folder with something of the user's", finished_with_links)
    yield Attempt("data onto a file", onto_file)
    yield Attempt("report in a folder of the user's", report)
    yield Attempt("data into a folder that holds the user's folder", beside)
    yield Attempt("merge-adapter onto the adapter", adapter)
    yield Attempt("merge-adapter onto the base model", adapter_onto_model)
