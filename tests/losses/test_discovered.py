"""Discovered losses: a file in the folder is a loss by its name, with its card; `prefopt losses NAME` shows one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prefopt.cli.app import call
from prefopt.core.errors import PrefoptError
from prefopt.losses import LOSSES, build_loss, discovered, export_mirror

UNITS = {key: [[0.1, 0.0]] * 6 for key in "vwb"}
PARTS = {
    "phi_inv": {"name": "learned", "units": UNITS, "a": 0.1, "c": 1.0, "d": 0.5},
    "psi": {"name": "learned", "a": 0.0, "c": 0.8, "d": 0.0},
    "g": {"name": "learned", "beta": 1.5, "k0": 1.0, "k1": 0.1, "k2": 0.0},
    "lam": 0.7,
    "reference": False,
}


def test_a_file_in_the_folder_is_a_loss_by_its_name(tmp_path):
    path = export_mirror(tmp_path / "quiet.json", PARTS, x="mean", provenance={"variants": ["noisy:0.3"]})
    (tmp_path / "quiet.md").write_text("Found under noise.\n")
    (row,) = discovered.rows(tmp_path)
    assert (row.name, row.x, row.defaults["reference"]) == ("quiet", "mean", False)
    assert "noisy:0.3" in row.paper
    assert "log x" in row.formula
    assert discovered.card("quiet", tmp_path) == "Found under noise.\n"
    assert discovered.card("other", tmp_path) == ""
    rng = np.random.default_rng(0)
    means = [rng.uniform(-3, -1, 6) for _ in range(2)]
    inputs = {"chosen": 20 * means[0], "rejected": 20 * means[1]}
    inputs |= {name: np.full(6, 20.0) for name in ("chosen_tokens", "rejected_tokens")}
    by_file = build_loss({"name": "mirror", "file": str(path)})(inputs)
    np.testing.assert_allclose(row(*means), by_file, rtol=1e-12)


def test_a_file_that_is_no_loss_is_told(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(PrefoptError, match=r"bad\.json"):
        discovered.rows(tmp_path)


def test_shipped_ones_are_whole_and_the_page_says_when_there_are_none():
    names = [row.name for row in discovered.rows()]
    page = (Path(__file__).resolve().parents[2] / "docs" / "discovery.md").read_text()
    assert ("`losses/discovered/` is empty" in page) == (not names)
    for name in names:
        assert LOSSES[name].defaults["phi_inv"]["name"] == "learned"
        told = json.loads((discovered.FOLDER / f"{name}.json").read_text())["provenance"]
        assert {"search", "generations", "cost", "baseline", "learning_rate", "updates", "versions"} <= set(
            told
        )
        card = discovered.card(name)
        assert all(word in card for word in ("Found on", "Good at", "Bad at", "Cost"))


def test_one_loss_is_shown_by_its_name(capsys):
    call(["losses", "rdpo"])
    shown = capsys.readouterr().out
    assert "name: robust" in shown
    assert "hyperparameters: beta=0.1" in shown
    call(["losses"])
    assert "rdpo" not in capsys.readouterr().err
    with pytest.raises(PrefoptError, match="did you mean 'dpo'"):
        call(["losses", "dpoo"])
