"""Checkpoints are whole or they do not count: damaged files, a damaged best one, a disk that is full while one is written."""

from __future__ import annotations

import itertools
import json
import logging
import resource
import shutil
from contextlib import contextmanager

import pytest
from training_runs import DPO, largest_difference, weights_of
from training_worker import Stop, StopAt, make_examples, make_trainer, tiny_model

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.training import checkpoints
from prefopt.training.metrics import history_rows

RUN = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "save_total_limit": 2,
       "pairs_per_micro_batch": 4}  # fmt: skip


def gone(file):
    file.unlink()


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def junk(file):
    file.write_bytes(b"\x00junk")


DAMAGES = [gone, cut, flipped, junk]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, rows):
    trainer = make_trainer(tmp_path_factory.mktemp("whole"), build_loss(DPO), rows, **RUN)
    trainer.train()
    return weights_of(trainer), json.dumps(history_rows(trainer.state.log_history))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, rows):
    """A run stopped in its seventh step, with checkpoints of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        make_trainer(folder, build_loss(DPO), rows, callbacks=[StopAt(7)], **RUN).train()
    return folder


def test_a_run_shorter_than_save_steps_goes_on_from_its_checkpoints_by_time(
    tmp_path, rows, whole, monkeypatch
):
    """20 s at every look at the clock and one per 30 s: behind steps 2, 4 and 6, each in place of the one before."""
    monkeypatch.setattr("prefopt.training.callbacks.monotonic", itertools.count(0, 20).__next__)
    settings = RUN | {"save_steps": 100, "save_minutes": 0.5}
    with pytest.raises(Stop):
        make_trainer(tmp_path, build_loss(DPO), rows, callbacks=[StopAt(7)], **settings).train()
    (left,) = checkpoints.checkpoints(tmp_path)
    assert left.name == "checkpoint-6"
    assert checkpoints.is_complete(left)
    resumed = make_trainer(tmp_path, build_loss(DPO), rows, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 7
    weights, history = whole
    assert largest_difference(weights, weights_of(resumed)) == 0.0
    assert json.dumps(history_rows(resumed.state.log_history)) == history
    assert checkpoints.checkpoints(tmp_path) == []  # of the wall clock: none stays


def test_checkpoints_by_time_push_out_none_that_is_by_steps(tmp_path, rows, monkeypatch):
    """Time enough for one in every step: what stays is what a run by steps alone leaves."""
    monkeypatch.setattr("prefopt.training.callbacks.monotonic", itertools.count(0, 1000).__next__)
    trainer = make_trainer(tmp_path, build_loss(DPO), rows, **RUN | {"save_steps": 3, "save_minutes": 1})
    trainer.train()
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]


@pytest.fixture
def folder(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-12", 12),
        ("checkpoint-0", 0),
        ("checkpoint-", -1),
        ("checkpoint-x", -1),
        ("12", -1),
        ("old-3", -1),
    ],
)
def test_the_step_is_that_of_a_checkpoints_name(tmp_path, name, step):
    assert checkpoints.step_of(tmp_path / name) == step


def test_checkpoints_are_in_order_of_their_steps(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-x", "checkpoint-100"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == [
        f"checkpoint-{n}" for n in (9, 10, 100)
    ]
    assert checkpoints.last_complete(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name / checkpoints.MARKER).touch()
    assert checkpoints.last_complete(tmp_path).name == "checkpoint-10"


def test_the_marker_lists_every_file(stopped):
    path = stopped / "checkpoint-6"
    listed = json.loads((path / checkpoints.MARKER).read_text())
    assert listed["step"] == 6
    assert set(listed["files"]) == {file.name for file in path.iterdir()} - {checkpoints.MARKER}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "window.safetensors"} <= set(listed["files"])
    assert all(size == (path / name).stat().st_size for name, (size, _) in listed["files"].items())
    assert checkpoints.damage(path) is None


@pytest.mark.parametrize("hurt", DAMAGES)
def test_damage_of_any_file_is_seen(folder, hurt):
    path = folder / "checkpoint-6"
    for file in sorted(path.iterdir()):
        kept = file.read_bytes()
        hurt(file)
        assert checkpoints.damage(path), file.name
        file.write_bytes(kept)
    assert checkpoints.damage(path) is None


@pytest.mark.parametrize(
    ("name", "hurt", "from_step"),
    [
        ("checkpoint-6/optimizer.pt", gone, 4),
        ("checkpoint-6/scheduler.pt", gone, 4),
        ("checkpoint-6/model.safetensors", cut, 4),
        ("checkpoint-6/COMPLETE", junk, 4),
        ("checkpoint-*/trainer_state.json", junk, 0),
    ],
)
def test_a_damaged_checkpoint_is_left_out_with_a_line_and_the_bytes_are_the_same(
    folder, rows, whole, caplog, name, hurt, from_step
):
    for file in folder.glob(name):
        hurt(file)
    started = []
    trainer = make_trainer(folder, build_loss(DPO), rows, **RUN)
    original = trainer.training_step

    def step(*args, **more):
        started.append(trainer.state.global_step)
        return original(*args, **more)

    trainer.training_step = step
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=True)
    assert started[0] == from_step
    (line,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert "checkpoint-6" in line
    assert "\n" not in line
    assert largest_difference(whole[0], weights_of(trainer)) == 0.0
    assert json.dumps(history_rows(trainer.state.log_history)) == whole[1]


def test_a_checkpoint_whose_best_one_is_damaged_is_left_out_too(tmp_path, rows):
    held_out = make_examples(5, 1, tiny_model())
    best = {**RUN, "learning_rate": 3e-3, "eval_strategy": "steps", "eval_steps": 2, "keep": "best"}

    def build(folder, **more):
        return make_trainer(folder, build_loss(DPO), rows, held_out, **best, **more)

    one = build(tmp_path / "one")
    one.train()
    with pytest.raises(Stop):
        build(tmp_path / "two", callbacks=[StopAt(7)]).train()
    last = checkpoints.last_complete(tmp_path / "two")
    named = checkpoints.best_step(last)
    assert named is not None
    assert named < checkpoints.step_of(last), "the case needs a best checkpoint that is not the last"
    cut(tmp_path / "two" / f"checkpoint-{named}" / "model.safetensors")
    two = build(tmp_path / "two")
    two.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(one), weights_of(two)) == 0.0


def test_a_damaged_checkpoint_given_by_name_is_an_error(folder, rows):
    cut(folder / "checkpoint-6" / "optimizer.pt")
    with pytest.raises(PrefoptError, match=r"not a complete checkpoint \(optimizer.pt has"):
        make_trainer(folder, build_loss(DPO), rows, **RUN).train(str(folder / "checkpoint-6"))
    assert (folder / "checkpoint-6").is_dir(), "what was given by name is not removed"


@contextmanager
def files_up_to(size):
    """No file may grow beyond `size` bytes, as with a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "share", [0.0, 0.5, 1.2, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.9, 1.9))]
)
def test_a_disk_that_is_full_while_a_checkpoint_is_written_is_one_line_and_the_run_goes_on(
    folder, rows, whole, share
):
    """share: of the size of the weights, at which writing fails; optimizer and schedule are larger and smaller."""
    sizes = {file.name: file.stat().st_size for file in (folder / "checkpoint-6").iterdir()}
    shutil.rmtree(folder / "checkpoint-6")
    limit = int(share * sizes["model.safetensors"])
    assert limit < max(sizes.values())
    with (
        files_up_to(limit),
        pytest.raises(
            PrefoptError, match=r"checkpoint cannot be written.*free space.*continues from"
        ) as told,
    ):
        make_trainer(folder, build_loss(DPO), rows, **RUN).train(resume_from_checkpoint=True)
    assert "\n" not in str(told.value)
    assert not (folder / "checkpoint-6").exists(), "what was half written is gone"
    trainer = make_trainer(folder, build_loss(DPO), rows, **RUN)
    trainer.train(resume_from_checkpoint=True)
    assert largest_difference(whole[0], weights_of(trainer)) == 0.0
