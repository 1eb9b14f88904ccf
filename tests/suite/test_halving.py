"""Random search with successive halving: its draws, its rungs, resume, budget and export, at toy size."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("jax")

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.losses.mirror import MAPS, PSIS, SHAPES, apply
from prefopt.suite.bench.settings import bench_config
from prefopt.suite.inner.traced_loss import split_loss
from prefopt.suite.search import halving as H
from prefopt.suite.search.discover import make_search
from prefopt.suite.search.draws import POWERS, TYPICAL, draw
from prefopt.suite.search.export import export
from prefopt.suite.search.settings import SearchConfig
from prefopt.suite.search.space import Space

TUNED = {"hyper": {"lam": 0.7, "learning_rate": 2e-3}, "updates": 14}
SMALL = {
    "method": "halving",
    "variants": ("base",),
    "units": 1,
    "candidates": 20,
    "finalists": 5,
    "episodes": 1,
}
CONFIG = SearchConfig(**SMALL, retest_episodes=1, lineages=(1, 2))


def slope(table, part, t=0.0):
    """d part / d log x at TYPICAL."""
    at, step = math.log(TYPICAL), 1e-4
    ends = [np.asarray(apply(table, part, np.array([at + s]), t)) for s in (-step, step)]
    return float((ends[1] - ends[0])[0] / (2 * step))


@pytest.mark.parametrize("temporal", [False, True])
def test_draws_have_slope_1_whatever_their_shape_and_are_one_structure(temporal):
    space, rng = Space(1, temporal, False, 0.03, 6e-3, 0.2), np.random.default_rng(0)
    structures, psis = set(), []
    for _ in range(40):
        found = space.candidate(draw(space, rng), 400)
        assert slope(MAPS, found.loss["phi_inv"]) == pytest.approx(1.0, rel=1e-3)
        psis.append(slope(PSIS, found.loss["psi"]))
        assert psis[-1] == pytest.approx(1.0, rel=1e-3) or psis[-1] == 0.0
        ends = [float(apply(SHAPES, found.loss["g"], np.array([u]))[0]) for u in (-1e-4, 1e-4)]
        assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(1.0, rel=1e-2)
        assert 1e-3 <= found.learning_rate <= 1.2e-2 * (1 + 1e-9)
        assert 200 <= found.stop <= 400
        structures.add(split_loss(build_loss(found.loss))[0])
    assert len(structures) == 1
    assert 0.0 in psis
    assert len(POWERS) == 6


@pytest.fixture(scope="module")
def bench():
    return bench_config("toy", {"lineages": [0], "tuning_lineages": [3, 4]})


@pytest.fixture(scope="module")
def halved(bench, tmp_path_factory):
    root = tmp_path_factory.mktemp("halving")
    result, folder = H.halve(CONFIG, bench, TUNED, root)
    return root, result, folder


def test_rungs_shrink_and_the_winner_is_one_of_the_last(halved):
    _, result, _ = halved
    assert [row["candidates"] for row in result["history"]] == [20, 8]
    members = [name for name in result["retest"] if name.startswith("member")]
    assert len(members) == H.LAST
    assert result["chosen"] in members
    # two rungs, finalists on both lineages, then the last, the baseline and a closed form on both
    assert result["cost"]["trainings"] == 20 + 8 + 5 * 2 + (H.LAST + 2) * 2


def test_a_cut_search_ends_in_the_same_bytes(halved, bench, tmp_path):
    root, result, folder = halved
    for part in (*root.glob("agents-*"), *root.glob("bank-*")):
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / folder.name).mkdir()
    for name in ("rung-0-1-000.safetensors", "final-2-000.safetensors"):  # as if killed somewhere
        (tmp_path / folder.name / name).symlink_to(folder / name)
    again, there = H.halve(CONFIG, bench, TUNED, tmp_path)
    assert again == result
    assert there.name == folder.name
    left, right = (export(each, tmp_path / name) for each, name in ((result, "a.json"), (again, "b.json")))
    assert left.read_bytes() == right.read_bytes()


def test_a_budget_that_is_over_ends_after_the_first_block(halved, bench, tmp_path):
    root = halved[0]
    for part in (*root.glob("agents-*"), *root.glob("bank-*")):
        (tmp_path / part.name).symlink_to(part)
    result, _ = H.halve(CONFIG, bench, TUNED, tmp_path, budget_s=1e-3)
    assert [row["candidates"] for row in result["history"]] == [H.BLOCK, 6]


def test_what_is_not_a_number_never_leads():
    np.testing.assert_array_equal(H.best_first(np.array([math.nan, 0.1, 0.3, -5.0, 0.3])), [2, 4, 1, 3, 0])


def test_settings_of_one_method_do_not_move_the_other(bench, tmp_path):
    def settings(**more):
        return make_search(SearchConfig(**{**SMALL, **more}), bench, TUNED, tmp_path).settings()

    assert settings(sigma=0.5) == settings(population=8)
    assert settings(keep=0.5) != settings()
    assert settings(method="evolution", keep=0.5) == settings(method="evolution")


def test_halving_on_reported_lineages_is_refused(bench, tmp_path):
    with pytest.raises(PrefoptError, match="reported or tuned on"):
        H.halve(CONFIG.model_copy(update={"lineages": (0,)}), bench, TUNED, tmp_path)
