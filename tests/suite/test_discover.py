"""Search of losses: the class, the strategy, generation 0, resume, re-test and export, at toy size."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("jax")

from prefopt.cli.app import call
from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.suite.bench.settings import bench_config
from prefopt.suite.inner.traced_loss import split_loss
from prefopt.suite.search import discover as D
from prefopt.suite.search import strategy
from prefopt.suite.search.export import export
from prefopt.suite.search.settings import SearchConfig
from prefopt.suite.search.space import Space, closed_form
from prefopt.suite.store import load_arrays
from prefopt.suite.words import parse_budget

TUNED = {"hyper": {"lam": 0.7, "learning_rate": 2e-3}, "updates": 14}
SMALL = {
    "variants": ("base",),
    "units": 2,
    "population": 4,
    "generations": 2,
    "episodes": 2,
    "retest_episodes": 2,
}


def space(**more):
    return Space(
        **{
            "units": 2,
            "temporal": False,
            "reference": False,
            "lam": 0.7,
            "learning_rate": 1e-3,
            "length": 0.5,
        }
        | more
    )


def some_inputs():
    rng = np.random.default_rng(0)
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
    inputs = {name: rng.uniform(-60, -20, 5) for name in names}
    return inputs | {
        "chosen_tokens": np.full(5, 20.0),
        "rejected_tokens": np.full(5, 20.0),
        "progress": np.asarray(0.3),
    }


@pytest.mark.parametrize("temporal", [False, True])
def test_the_class_starts_at_orpo(temporal):
    own = space(temporal=temporal)
    start = own.candidate(own.start(), 400)
    found = build_loss(start.loss)(some_inputs())
    np.testing.assert_allclose(found, build_loss({"name": "orpo", "lam": 0.7})(some_inputs()), rtol=1e-6)
    assert (start.learning_rate, start.stop) == (1e-3, 200)


def test_every_candidate_is_one_structure_and_nothing_is_negative():
    own, rng = space(), np.random.default_rng(0)
    seen = set()
    for _ in range(5):
        candidate = own.candidate(own.start() + rng.standard_normal(own.size), 400)
        seen.add(split_loss(build_loss(candidate.loss))[0])
        assert all(candidate.loss[part][key] >= 0 for part in ("phi_inv", "psi") for key in "acd")
        assert all((candidate.loss["psi"]["units"][key] >= 0).all() for key in "vwb")
        assert 1 <= candidate.stop <= 400
        assert 0 < candidate.learning_rate < 1
    assert len(seen) == 1


def test_lists_of_an_exported_file_are_the_same_structure_whatever_their_numbers():
    own, rng = space(), np.random.default_rng(0)
    made = [D.numbers(own.candidate(own.start() + rng.uniform(0, 0.1, own.size), 400).loss) for _ in range(2)]
    (one, _), (two, values) = (split_loss(build_loss(loss)) for loss in made)
    assert one == two
    assert values["0/phi_inv/units/v"].shape == (6, 2)


def test_closed_form_gives_back_what_it_can_say():
    own = space()
    loss = own.candidate(own.start(), 400).loss
    loss["phi_inv"] |= {"a": np.float32(0.3), "c": np.float32(2.0), "d": np.float32(0.5)}
    simple = closed_form(loss)
    assert "units" not in simple["phi_inv"]
    assert [float(simple["phi_inv"][key]) for key in "acd"] == pytest.approx([0.3, 2.0, 0.5], abs=1e-4)
    assert [float(simple["psi"][key]) for key in "acd"] == pytest.approx([0.0, 1.0, 0.0], abs=1e-4)


# ---- the strategy


def test_noise_is_antithetic_and_new_in_every_generation():
    state = strategy.begin(np.zeros(3))
    noise = strategy.noise_of(state, 6, 0)
    np.testing.assert_array_equal(noise[::2], -noise[1::2])
    later = strategy.advance(state, noise, np.arange(6.0), 0.1, 0.01)
    assert not np.array_equal(strategy.noise_of(later, 6, 0), noise)
    assert not np.array_equal(strategy.noise_of(state, 6, 1), noise)


def test_centred_ranks_by_hand_and_nan_never_wins():
    np.testing.assert_allclose(strategy.centred_ranks(np.array([3.0, 1.0, 2.0])), [0.5, -0.5, 0.0])
    np.testing.assert_allclose(strategy.centred_ranks(np.array([1.0, math.nan, -5.0])), [0.5, -0.5, 0.0])
    np.testing.assert_allclose(strategy.centred_ranks(np.array([2.0, 2.0])), [0.0, 0.0])


def test_the_strategy_climbs_and_equal_fitness_does_not_move_it():
    state = strategy.begin(np.zeros(4))
    goal = np.array([0.5, -0.3, 0.2, 0.0])
    for _ in range(150):
        noise = strategy.noise_of(state, 32, 0)
        members = state.centre + 0.05 * noise
        state = strategy.advance(state, noise, -((members - goal) ** 2).sum(axis=1), 0.05, 0.02)
    np.testing.assert_allclose(state.centre, goal, atol=0.08)
    still = strategy.begin(goal)
    moved = strategy.advance(still, strategy.noise_of(still, 8, 0), np.ones(8), 0.05, 0.02)
    np.testing.assert_array_equal(moved.centre, goal)


# ---- the search


@pytest.fixture(scope="module")
def bench():
    return bench_config("toy", {"lineages": [0], "tuning_lineages": [3, 4]})


@pytest.fixture(scope="module")
def searched(bench, tmp_path_factory):
    """A search of two generations, and its root."""
    root = tmp_path_factory.mktemp("search")
    config = SearchConfig(**SMALL, lineages=(1, 2))
    result, folder = D.discover(config, bench, TUNED, root)
    return root, config, result, folder


def test_generation_0_is_its_baseline_to_the_last_digit(searched):
    first = searched[2]["history"][0]
    assert first["centre"] == first["baseline"]
    assert first["best"] >= first["members"]


def test_the_named_loss_and_the_class_train_to_the_same_bytes(bench, searched):
    search = D.Search(searched[1], bench, TUNED, searched[0], 1)
    given = D.material(bench, searched[0], lineage=1)
    pairs = D.make_pairs(given.bank, D.parse_variant("base"), bench.rows, 0)
    start = search.space.candidate(search.space.start(), bench.inner.updates)
    members = [
        D.Member(
            c.loss, c.learning_rate, pairs.winner, pairs.loser, np.ones(len(pairs.winner)), 0, stop=c.stop
        )
        for c in (start, search.baseline())
    ]
    trained = D.train_members(given, members).final()
    for name, x in trained.items():
        assert x[0].tobytes() == x[1].tobytes(), name
    assert not np.array_equal(trained["w0"][0], given.found.reference["w0"])


def test_a_search_cut_after_a_generation_ends_in_the_same_bytes(bench, searched, tmp_path):
    root, config, result, folder = searched
    for part in (*root.glob("agents-*"), *root.glob("bank-*")):
        (tmp_path / part.name).symlink_to(part)
    one = config.model_copy(update={"generations": 1})
    D.discover(one, bench, TUNED, tmp_path)
    again, there = D.discover(config, bench, TUNED, tmp_path)
    assert again == result
    states = [load_arrays(path.parent / "state.safetensors") for path in (folder, there)]
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])
    assert export(again, tmp_path / "a.json").read_bytes() == export(result, tmp_path / "b.json").read_bytes()


def test_the_result_is_a_loss_that_loads(searched, tmp_path):
    result = searched[2]
    assert result["chosen"] in {"centre", "closed_form", "member_0", "member_1", "member_2"}
    assert set(result["retest"]) > {"baseline", "centre", "closed_form"}
    path = export(result, tmp_path / "found.json")
    values = build_loss({"name": "mirror", "file": str(path)})(some_inputs())
    assert np.isfinite(values).all()
    told = json.loads(path.read_text())["provenance"]
    assert told["baseline"]["loss"] == "orpo"
    assert told["cost"] == {"trainings": 2 * 6, "episodes": 2 * 6 * 2}


def test_the_command_finds_the_finished_search_and_writes_its_loss(searched, tmp_path, capsys):
    root, config, result, _ = searched
    tuned = {"environment": "hopper", "losses": {"orpo": TUNED}}
    (tmp_path / "tuned.json").write_text(json.dumps(tuned))
    words = ["suite", "discover", "--preset", "toy", "--output", root, "--tuned", tmp_path / "tuned.json"]
    words += [
        "--variants",
        "base",
        "--lineages",
        "[0]",
        "--tuning_lineages",
        "[3, 4]",
        "--write",
        tmp_path / "found.json",
    ]
    for name, value in config.model_dump(mode="json").items():
        if name not in ("variants", "start"):
            words += [f"--search.{name}", json.dumps(value)]
    call([str(word) for word in words])
    assert "baseline" in capsys.readouterr().out
    assert (tmp_path / "found.json").read_bytes() == export(result, tmp_path / "b.json").read_bytes()


def test_a_budget_that_is_over_ends_with_what_is_there(bench, searched):
    root, config, _, _ = searched
    more = config.model_copy(update={"generations": 500})
    result, _ = D.discover(more, bench, TUNED, root, budget_s=1e-3)
    assert 2 <= result["generations"] <= 3  # the first generation's time is not known before it has run


def test_a_search_on_reported_lineages_is_refused(bench, searched):
    config = SearchConfig(**SMALL, lineages=(0,))
    with pytest.raises(PrefoptError, match="reported or tuned on"):
        D.discover(config, bench, TUNED, searched[0])


@pytest.mark.parametrize(("text", "seconds"), [("60m", 3600.0), ("90s", 90.0), ("1.5h", 5400.0)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["60", "m", "-1m", "infm", ""])
def test_bad_budgets_are_told(text):
    with pytest.raises(PrefoptError, match="write 60m"):
        parse_budget(text)


def test_an_odd_population_is_told():
    with pytest.raises(ValueError, match="population must be even"):
        SearchConfig(population=3)


@pytest.mark.slow
def test_a_search_killed_in_a_generation_ends_in_the_same_bytes(bench, searched, tmp_path):
    """SIGKILL at some moment after the first generation's state is there."""
    root, config, result, _ = searched
    for part in (*root.glob("agents-*"), *root.glob("bank-*")):
        (tmp_path / part.name).symlink_to(part)
    code = (
        "import sys, json; from pathlib import Path\n"
        "from prefopt.suite.bench.settings import bench_config\n"
        "from prefopt.suite.search.discover import discover\n"
        "from prefopt.suite.search.settings import SearchConfig\n"
        "body = json.loads(sys.argv[1])\n"
        "discover(SearchConfig(**body['search']), bench_config('toy', body['bench']), body['tuned'], Path(sys.argv[2]))\n"
    )
    body = {
        "search": config.model_dump(mode="json"),
        "tuned": TUNED,
        "bench": {"lineages": [0], "tuning_lineages": [3, 4]},
    }
    running = subprocess.Popen([sys.executable, "-c", code, json.dumps(body), str(tmp_path)])
    while running.poll() is None and not list(tmp_path.glob("discover-*/state.safetensors")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    again, _ = D.discover(config, bench, TUNED, tmp_path)
    assert again == result
