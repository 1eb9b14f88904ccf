"""The promises of docs/reliability.md, tried in small; `make chaos` tries them at large, and its figures stand there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import (
    bad_models,
    bad_rows,
    bad_words,
    damaged,
    everything,
    foreign,
    kills,
    limits,
    malformed,
    servers,
    together,
)
from chaos.driving import Host
from chaos.figures import Figures
from chaos.worlds import World, build_world

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    with Host(folder / "scratch") as host:
        yield build_world(folder / "world", host)


def held(figures: Figures, least: int) -> None:
    assert figures.attempts >= least
    assert figures.wrong == [], figures.shown()
    assert figures.tracebacks == 0


def test_a_run_killed_again_and_again_ends_byte_for_byte_like_an_undisturbed_one(world, tmp_path):
    held(kills.chain(world, tmp_path, "arms", seed=3, turns=8), 6)


def test_verbs_killed_at_a_file_operation_end_like_undisturbed_ones(world, tmp_path):
    held(kills.sweep(world, tmp_path, ["sample", "train"], seed=2, share=0.0, least=2), 4)


def test_nothing_of_somebody_else_is_deleted_or_changed(world, tmp_path):
    held(foreign.run(world, tmp_path, most=12), 12)


def test_of_two_processes_at_one_place_one_works(world, tmp_path):
    held(together.run(world, tmp_path, 4, 0, ("train", "data pairs", "sample", "judge")), 4)


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(world, tmp_path):
    held(damaged.checkpoints(world, tmp_path, 0, ("train",), most=5), 5)


def test_damaged_results_are_found(world, tmp_path):
    held(damaged.finished(world, tmp_path, 0, "select", most=4), 4)


@pytest.mark.parametrize("kind", ["rows", "words", "models"])
def test_malformed_input_is_one_line_or_every_row_is_accounted_for(world, tmp_path, kind):
    cases = {
        "rows": lambda: bad_rows.cases(),
        "words": lambda: bad_words.cases(world),
        "models": lambda: bad_models.cases(world),
    }
    held(malformed.run(world, tmp_path, cases[kind](), most=15, seed=7), 15)


def test_faulty_servers_cost_tries_and_no_answers(world, tmp_path):
    held(servers.run(world, tmp_path, most=2, seed=1), 2)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(world, tmp_path):
    held(limits.small_files(world, tmp_path, 2, seed=2), 2)


def test_a_small_file_system(world, tmp_path):
    if not limits.may_mount(tmp_path):
        pytest.skip("a small file system can be mounted by root alone")
    held(limits.full_disks(world, tmp_path, 1, seed=4), 1)
    held(limits.read_only(world, tmp_path), 10)


def test_the_page_tells_the_figures_that_were_found():
    spec = importlib.util.spec_from_file_location("reliability_tool", ROOT / "tools" / "reliability.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.page() == tool.PAGE.read_text(encoding="utf-8"), "run python tools/reliability.py"
    found = json.loads(tool.RESULTS.read_text())
    assert found.keys() <= everything.KINDS.keys()
    assert all(figures["wrong"] == figures["tracebacks"] == 0 for figures in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(everything.KINDS))
def test_everything(world, tmp_path, kind):
    if kind in everything.MOUNTED and not limits.may_mount(tmp_path):
        pytest.skip("a small file system can be mounted by root alone")
    held(everything.KINDS[kind](world, tmp_path), 10)
