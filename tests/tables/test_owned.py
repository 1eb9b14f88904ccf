"""Folders of one work: what is not ours is never removed, what is ours is on record, one process at a time works there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.tables.lock import RUN_RECORD, working_in
from prefopt.tables.ours import LOCK, check_apart, check_file, remove
from prefopt.tables.owned import Claims, OwnedFolder

CLAIMS = Claims(
    "toy", files=("model",), loose=("journal.jsonl", "model/README.md"), lasting=("journal.jsonl",)
)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _work(path: Path, key: str = "a") -> OwnedFolder:
    """A finished piece of work."""
    folder = OwnedFolder(path, CLAIMS)
    folder.begin(key)
    for name in (
        "part-00000.parquet",
        "model/weights",
        "model/README.md",
        "journal.jsonl",
        "timings.parquet",
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"{name} of {key}")
    body = {"stage": "toy", "key": key, "files": folder.written()}
    (path / "manifest.json").write_text(json.dumps(body))
    (path / "key.json").unlink()
    return folder


@pytest.mark.parametrize(
    "name", ["notes.txt", "model/weights", "part-00000.parquet", "manifest.json", "key.json"]
)
def test_a_folder_of_somebody_else_is_refused_and_stays_as_it_is(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"key": "theirs"}')
    before = _tree(tmp_path)
    with pytest.raises(PrefoptError, match=re.escape(name.split("/")[0])):
        OwnedFolder(tmp_path, CLAIMS).begin("a")
    assert _tree(tmp_path) == before


def test_the_folder_of_another_stage_is_refused(tmp_path):
    _work(tmp_path / "x")
    before = _tree(tmp_path)
    with pytest.raises(PrefoptError, match="stage 'toy'"):
        OwnedFolder(tmp_path / "x", Claims("other", files=("model",))).begin("a")
    assert _tree(tmp_path) == before


def test_changed_settings_remove_what_is_on_record_and_keep_what_is_lasting_or_foreign(tmp_path):
    folder = _work(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin("b")
    assert _tree(tmp_path).keys() == {"key.json", "journal.jsonl", "notes.txt"}


def test_files_put_among_ours_are_never_removed_and_stop_the_work(tmp_path):
    folder = _work(tmp_path)
    (tmp_path / "model" / "mine.gguf").write_text("mine")
    before = _tree(tmp_path)
    with pytest.raises(PrefoptError, match=r"model/mine\.gguf"):
        folder.begin("b")
    assert _tree(tmp_path) == before
    assert folder.discard() == ["model"]
    assert _tree(tmp_path) == {"model/mine.gguf": b"mine"}


def test_nothing_beyond_a_link_is_removed(tmp_path):
    folder = _work(tmp_path / "x")
    os.rename(tmp_path / "x" / "model", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "x" / "model")
    assert folder.damage() == []  # moved to a larger disk: still whole
    with pytest.raises(PrefoptError, match="model"):
        folder.begin("b")
    folder.discard()
    assert (tmp_path / "elsewhere" / "weights").exists()
    remove(tmp_path / "x", ["../elsewhere/weights", str(tmp_path / "elsewhere" / "weights")])
    assert (tmp_path / "elsewhere" / "weights").exists()


def test_a_kill_while_a_folder_is_cleared_leaves_it_known_as_ours(tmp_path, monkeypatch):
    for calls in range(1, 5):
        path = tmp_path / str(calls)
        folder = _work(path)
        left = [calls]

        def unlink(self, missing_ok=False, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            if self.exists():
                os.unlink(self)

        monkeypatch.setattr(Path, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            folder.begin("b")
        monkeypatch.undo()
        OwnedFolder(path, CLAIMS).begin("b")
        assert _tree(path).keys() == {"key.json", "journal.jsonl"}


@pytest.mark.parametrize(
    ("harm", "said", "cheap"),
    [
        (lambda p: (p / "model" / "weights").unlink(), "model/weights is missing", True),
        (lambda p: (p / "part-00000.parquet").write_text("cut"), "part-00000.parquet has 3 bytes", True),
        (lambda p: (p / "model" / "weights").write_text("model/weights of b"), "another content", False),
        (lambda p: (p / "model" / "README.md").write_text("edited by hand"), "", False),
        (lambda p: (p / "journal.jsonl").unlink(), "", False),
    ],
)
def test_damage_is_named(tmp_path, harm, said, cheap):
    folder = _work(tmp_path)
    harm(tmp_path)
    assert bool(folder.damage()) == cheap
    found = folder.damage(digests=True)
    assert said in " ".join(found)
    assert bool(found) == bool(said)
    folder.mark_damage(found)
    assert folder.damage() == found  # the next run knows, without reading everything again
    folder.mark_damage([])
    assert bool(folder.damage()) == cheap


@pytest.mark.parametrize(
    ("output", "other", "how"),
    [
        ("a", "a", "is"),
        ("a/../a", "a", "is"),
        ("link", "a", "is"),
        ("link/b", "a", "lies within"),
        (".", "a", "holds"),
        (".", "a/file", "holds"),
        ("a/b/c", "a", "lies within"),
    ],
)
def test_output_and_input_apart(tmp_path, monkeypatch, output, other, how):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("x")
    os.symlink(tmp_path / "a", tmp_path / "link")
    with pytest.raises(PrefoptError, match=f"{how} the input"):
        check_apart(Path(output), [("input", Path(other))])
    check_apart(Path("c"), [("input", Path(other))])
    check_apart(Path("a/b"), [("input", Path("a/file"))])


def test_a_file_of_somebody_else_is_not_replaced(tmp_path):
    path = tmp_path / "figure.svg"
    check_file(path)
    path.write_text("theirs")
    with pytest.raises(PrefoptError, match="not written by prefopt"):
        check_file(path)
    path.write_text("<svg>" + "x" * 9000 + "<!-- prefopt --></svg>")
    check_file(path)


# ---- locks

HOLD = """
import sys, time
from pathlib import Path
from prefopt.tables.lock import working_in
with working_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_works_there_and_a_dead_one_is_no_hindrance(tmp_path):
    folder = tmp_path / "run" / "07-train"
    holder = _holder(folder)
    try:
        before = time.monotonic()
        with pytest.raises(PrefoptError, match=rf"another process works here \(pid {holder.pid}, host .+\)"):
            working_in(folder).__enter__()
        assert time.monotonic() - before < 4
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (folder / LOCK).exists()  # a kill leaves the file, not the lock
    with working_in(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert not (folder / LOCK).exists()
    with working_in(tmp_path / "new" / "07-train"):
        pass
    assert not (tmp_path / "new").exists()  # nothing was written: nothing is left


def test_work_in_a_stage_of_a_run_holds_the_run_too(tmp_path):
    (tmp_path / RUN_RECORD).write_text("{}")
    stage = tmp_path / "arms" / "a" / "rounds" / "1" / "07-train"
    with working_in(stage), working_in(tmp_path), working_in(stage):  # the same thread may come again
        assert (tmp_path / LOCK).exists()
        other = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path / "00-data")], capture_output=True, text=True
        )
        assert "another process works here" in other.stderr
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_other_ranks_and_read_only_folders_need_no_lock(tmp_path, monkeypatch):
    from filelock import FileLock

    def denied(self, **more):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", denied)
        with working_in(tmp_path):
            pass
    monkeypatch.setenv("RANK", "1")
    with working_in(tmp_path / "x"):
        assert not (tmp_path / "x").exists()
