"""The re-test of discovered losses: its arms, and that the committed results say what their returns say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("jax")

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss, discovered
from prefopt.losses.mirror_file import load_mirror
from prefopt.suite.agents.lineages import roles
from prefopt.suite.bench.statistics import paired

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "studies" / "results"


@pytest.fixture(scope="module")
def studies():
    """The two modules, as they find each other when run as scripts."""
    sys.path.insert(0, str(ROOT / "studies"))
    yield importlib.import_module("suite_discovery"), importlib.import_module("suite_parts")
    sys.path.remove(str(ROOT / "studies"))


def inputs(chosen, rejected):
    rows = {"chosen": 20.0 * np.array(chosen), "rejected": 20.0 * np.array(rejected)}
    return rows | {name: np.full(len(chosen), 20.0) for name in ("chosen_tokens", "rejected_tokens")}


@pytest.mark.parametrize("name", ["quiet", "sorting"])
def test_arms_without_a_part_lack_it_and_the_whole_is_the_loss(studies, name):
    loss = load_mirror(discovered.FOLDER / f"{name}.json")
    near, far = inputs([-3.0, -4.0], [-3.5, -3.0]), inputs([-3.0, -4.0], [-5.0, -2.0])
    values = {
        arm: [build_loss(studies[1].changed(loss, arm).loss)(x) for x in (near, far)]
        for arm in studies[1].ARMS
    }
    np.testing.assert_allclose(values["whole"][0], build_loss(name)(near), rtol=1e-6)
    np.testing.assert_array_equal(*values["without contrast"])  # the loser does not matter
    assert not np.allclose(*values["whole"])
    same = build_loss(studies[1].changed(loss, "without psi").loss)(inputs([-3.0], [-3.0]))
    np.testing.assert_allclose(same, 0.0, atol=1e-12)  # nothing but the contrast
    log = studies[1].only_log(loss["psi"], 1.0)
    assert (log["c"], log["a"], log["d"], np.max(log["units"]["v"])) == (1.0, 0.0, 0.0, 0.0)


def test_a_tuning_on_several_variants_is_refused(studies, tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({"settings": {"tuning_variants": ["base", "noisy:0.3"]}}))
    with pytest.raises(PrefoptError, match="not on one variant"):
        studies[0].retuned_arms([path], "hopper")


@pytest.mark.parametrize("name", ["discovery", "transfer"])
def test_committed_results_are_of_the_shipped_losses_and_add_up(name):
    result = json.loads((RESULTS / f"{name}.json").read_text())
    shipped = {path.name: load_mirror(path)["sha256"] for path in discovered.FOLDER.glob("*.json")}
    assert [row["seed"] for row in result["lineages"]] == list(roles("hopper").reporting)
    for row in result["variants"]:
        assert row["loss_sha256"] == shipped[row["loss_file"]]
        others = [key.removeprefix("returns_") for key in row if key.startswith("returns_")]
        assert {"dpo", "orpo"} <= set(others)
        for other in others:
            assert len(row["returns"]) == len(row[f"returns_{other}"]) == len(result["lineages"])
            z = paired(row["returns"], row[f"returns_{other}"])["z"]
            assert row[f"z_vs_{other}"] == pytest.approx(z)
    if name == "discovery":
        assert {row["loss_file"] for row in result["variants"]} == set(shipped)
        assert all(row["variant"] in row["found_on"] for row in result["variants"])
