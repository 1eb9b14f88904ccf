"""The folder of a run: foreign files stay, another recipe stops, what is no longer the recipe's goes, damage is mended."""

import json
import os
import shutil
from pathlib import Path

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import run
from prefopt.tables.lock import LOCK, working_in
from prefopt.tools.integrity import verified_lines, verify

NONE = dict.fromkeys(("reference", "select", "weight", "train", "evaluate"))
TRAIN = {"loss": "cpo", "steps": 1, "pairs_per_step": 2, "pairs_per_micro_batch": 2, "max_length": 64}


def _pairs(path: Path, count: int = 6) -> Path:
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def given(tmp_path) -> dict:
    data = {"path": str(_pairs(tmp_path / "pairs.jsonl"))}
    return {"name": "toy", "model": "builtin:quickstart/base", "data": data, **NONE}


def _run(settings: dict, output: Path, **more):
    return run(parse_config(Recipe, settings, "test"), output, **more)


def _tree(folder: Path, *without: str) -> dict[str, bytes]:
    names = (*without, "summary.json", "timings.parquet")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in names
    }


@pytest.mark.parametrize("name", ["..", ".", "..."])
def test_a_recipe_cannot_be_named_like_the_folder_above(name):
    with pytest.raises(PrefoptError, match="name"):
        parse_config(Recipe, {"name": name}, "test")


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "00-data/part-00000.parquet",
        "07-train/model/x",
        "report.html",
        "summary.json",
        "run.json",
    ],
)
def test_a_folder_with_other_things_is_refused_and_stays_as_it_is(tmp_path, given, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(PrefoptError, match="holds other things"):
        _run(given, tmp_path / "out")
    assert _tree(tmp_path / "out", "") == ({} if name == "summary.json" else {name: b"{}"})
    assert path.read_text() == "{}"


def test_the_run_folder_may_not_hold_or_lie_in_what_it_reads(tmp_path, given):
    for output in (tmp_path, tmp_path / "model" / "run", tmp_path / "model"):
        (tmp_path / "model").mkdir(exist_ok=True)
        with pytest.raises(PrefoptError, match="must stay as it is"):
            _run({**given, "model": str(tmp_path / "model")}, output)
    assert sorted(os.listdir(tmp_path)) == ["model", "pairs.jsonl"]


def test_another_recipe_stops_and_overwrite_replaces(tmp_path, given, capsys):
    out = tmp_path / "run"
    _run({**given, "select": {"rule": "all"}}, out)
    before = _tree(out)
    other = {**given, "name": "other", "select": {"rule": "random", "fraction": 0.5}}
    with pytest.raises(PrefoptError, match=r"name 'toy', now 'other'; 3 settings differ.*--overwrite"):
        _run(other, out)
    more = {**given, "data": {"path": str(_pairs(tmp_path / "more.jsonl", 7))}}
    with pytest.raises(PrefoptError, match=r"data\.path"):
        _run(more, out)
    assert _tree(out) == before
    same = {**given, "select": {"rule": "all"}, "data": {"path": os.path.relpath(given["data"]["path"])}}
    assert _run(same, out)["recipe"] == "toy"  # the same file, spelled otherwise
    assert _run(other, out, overwrite=True)["recipe"] == "other"
    fresh = tmp_path / "fresh"
    _run(other, fresh)
    assert _tree(out) == _tree(fresh)
    assert "05-select: done anew" in capsys.readouterr().err


def test_a_recipe_of_which_nothing_was_done_is_no_hindrance(tmp_path, given):
    with pytest.raises(PrefoptError):
        _run({**given, "data": {"path": str(tmp_path / "none.jsonl")}}, tmp_path / "run")
    _run({**given, "name": "second"}, tmp_path / "run")


def test_changed_settings_leave_nothing_of_what_was_before(tmp_path, given, capsys):
    arms = {"weigh": {"weight": {"scheme": "uniform"}}, "main": {}}
    settings = {**given, "select": {"rule": "all"}, "weight": None, "arms": arms}
    out = tmp_path / "run"
    _run(settings, out)
    (out / "notes.txt").write_text("mine")
    (out / "arms" / "weigh" / "06-weight" / "notes.txt").write_text("mine")
    (out / "05-select" / "part-00000.parquet").read_bytes()
    capsys.readouterr()
    _run({**given, "select": None}, out)
    told = capsys.readouterr().err
    assert "settings changed (select" in told
    assert "06-weight: not in this recipe; removed (notes.txt stay" in told
    fresh = tmp_path / "fresh"
    _run({**given, "select": None}, fresh)
    expected = _tree(fresh) | {"notes.txt": b"mine", "arms/weigh/06-weight/notes.txt": b"mine"}
    assert _tree(out) == expected


def test_a_finished_run_keeps_its_summary_and_a_begun_one_has_none(tmp_path, given):
    out = tmp_path / "run"
    first = _run(given, out)
    written = (out / "summary.json").stat().st_mtime_ns
    assert _run(given, out) == first
    assert (out / "summary.json").stat().st_mtime_ns == written
    with pytest.raises(PrefoptError):
        _run({**given, "select": {"rule": "top"}}, out)  # needs the reference pass
    assert not (out / "summary.json").exists()  # it would not fit what is in the folder
    assert not list(out.rglob(LOCK))
    assert _run(given, out)["verdict"] == first["verdict"]


def test_two_runs_in_one_folder(tmp_path, given):
    import threading

    done = threading.Event(), threading.Event()

    def hold():
        with working_in(tmp_path / "run"):
            done[0].set()
            done[1].wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    done[0].wait(30)
    try:
        with pytest.raises(PrefoptError, match="another process works here"):
            _run(given, tmp_path / "run")
    finally:
        done[1].set()
        thread.join()
    _run(given, tmp_path / "run")


def _gone(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [_gone, _cut, _flipped])
def test_damage_is_named_and_done_anew(tmp_path, given, capsys, harm):
    settings = {**given, "train": TRAIN}
    out = tmp_path / "run"
    _run(settings, out)
    whole = _tree(out)
    found = verify(out)
    assert (found.damaged, found.unfinished) == ({}, [])
    assert found.files >= 8
    places = ("00-data/part-00000.parquet", "07-train/part-00000.parquet", "07-train/model/model.safetensors")
    for place in places:
        harm(out / place)
    if harm is _flipped:
        found = verify(out)
        assert sum(map(len, found.damaged.values())) == len(places)
        lines = "\n".join(verified_lines(out, found))
        assert all(Path(place).name in lines for place in places)
    capsys.readouterr()
    _run(settings, out)
    told = capsys.readouterr().err
    assert told.count("the stage is done anew") == 2
    assert _tree(out) == whole
    assert verify(out).damaged == {}


def test_a_finished_training_leaves_when_the_recipe_trains_no_longer(tmp_path, given):
    out = tmp_path / "run"
    _run({**given, "train": TRAIN}, out)
    assert (out / "07-train" / "model").is_dir()
    _run(given, out)
    assert not (out / "07-train").exists()
    assert (out / "07-train.skipped.json").is_file()
    _run({**given, "train": TRAIN}, out)
    assert not (out / "07-train.skipped.json").exists()


def test_a_stage_whose_folder_is_gone_is_missed(tmp_path, given):
    out = tmp_path / "run"
    _run(given, out)
    (out / "00-data" / "manifest.json").unlink()
    assert verify(out).damaged == {"00-data": ["manifest.json is gone or cannot be read"]}
    _run(given, out)
    assert verify(out).damaged == {}
    shutil.rmtree(out / "00-data")
    assert verify(out).damaged == {"00-data": ["the stage's folder or its manifest is missing"]}
    with pytest.raises(PrefoptError, match="nothing that prefopt has on record"):
        verify(tmp_path)


def test_what_is_given_in_memory_lies_in_the_run_and_never_over_files_of_others(tmp_path, given):
    import prefopt

    rows = [{"prompt": f"question {i}", "chosen": "good", "rejected": f"bad {i}"} for i in range(6)]
    recipe = {name: value for name, value in given.items() if name != "data"}
    out = tmp_path / "run"
    for _ in range(2):
        assert prefopt.run(recipe, out, data=rows).table("data").num_rows == 6
    (tmp_path / "theirs" / "input").mkdir(parents=True)
    (tmp_path / "theirs" / "input" / "data.jsonl").write_text("theirs")
    with pytest.raises(PrefoptError, match="holds other things"):
        prefopt.run(recipe, tmp_path / "theirs", data=rows)
    assert _tree(tmp_path / "theirs") == {"input/data.jsonl": b"theirs"}
