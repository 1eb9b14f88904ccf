"""A recipe with `seeds`: runs of their own, one summary with t intervals over seeds, one page."""

import json
import re

import pytest

import prefopt
from prefopt.core.errors import PrefoptError
from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run
from prefopt.pipeline.seeds import run_seeds
from prefopt.report import write_report
from prefopt.report.over_seeds import print_seeds

RECIPE = {
    "name": "small",
    "model": "builtin:quickstart/base",
    "data": {"heldout": 0.5},
    "select": None,
    "weight": None,
    "train": {"steps": 1, "pairs_per_step": 2, "pairs_per_micro_batch": 2, "learning_rate": 1e-3},
    "evaluate": {"pairs": "heldout"},
    "arms": {"ipo": {"train": {"loss": "ipo"}}, "full": {}},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    rows = [{"prompt": f"{k}+1=", "chosen": str(k + 1), "rejected": str(k + 2)} for k in range(9)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RECIPE | {"data": {"path": str(folder / "pairs.jsonl"), "heldout": 0.5}, "seeds": [3, 5]}


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, run_seeds(load_recipe(given), folder)


def test_each_seed_is_the_run_that_it_is_alone(given, done, tmp_path):
    folder, summary = done
    alone = run(
        load_recipe({k: v for k, v in given.items() if k != "seeds"}, {"seed": 5}), tmp_path / "alone"
    )
    found = json.loads((folder / "seeds" / "5" / "summary.json").read_text())
    assert [k for k in found if "seconds" not in k and found[k] != alone[k]] == []
    model = "07-train/model/model.safetensors"
    assert (folder / "seeds/5" / model).read_bytes() == (tmp_path / "alone" / model).read_bytes()
    assert summary["pair_accuracy"]["full"]["by_seed"][1] == alone["pair_accuracy"]["full"]["mean"]


def test_the_summary_tells_means_intervals_and_corrected_differences(done, capsys):
    folder, summary = done
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [3, 5]
    for arm in ("base", "ipo", "full"):
        figures = summary["pair_accuracy"][arm]
        assert figures["mean"] == pytest.approx(sum(figures["by_seed"]) / 2)
        assert figures["low"] <= figures["mean"] <= figures["high"]
    assert set(summary["main_against"]) == {"base", "ipo"}
    for figures in summary["main_against"].values():
        assert figures["pair_accuracy"]["p_holm"] >= figures["pair_accuracy"]["p"]
    print_seeds(summary)
    told = capsys.readouterr().out
    assert "full against ipo" in " ".join(told.split())
    assert "2 seeds" in told


def test_the_page_links_the_runs_and_loads_nothing(done):
    folder, _ = done
    page = write_report(folder).read_text()
    assert re.findall(r'href="(seeds/[^"]+)"', page) == ["seeds/3/report.html", "seeds/5/report.html"]
    assert all((folder / f"seeds/{seed}/report.html").is_file() for seed in (3, 5))
    assert "<script" not in page
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_again_does_nothing_anew_and_fewer_seeds_leave_the_others(given, done, capsys):
    folder, _ = done
    weights = folder / "seeds/3/07-train/model/model.safetensors"
    before = weights.stat().st_mtime_ns
    found = prefopt.run(given, folder, seeds=[3])
    assert weights.stat().st_mtime_ns == before
    assert list(found.runs) == [3]
    assert found.summary["pair_accuracy"]["full"]["low"] is None
    assert "says nothing of others" in found.summary["verdict"][0]
    assert found.runs[3].arms == ["ipo", "full"]
    assert "no longer names" in capsys.readouterr().err
    with pytest.raises(PrefoptError, match="runs over seeds"):
        prefopt.Run(folder)


def test_seeds_are_different_whole_numbers():
    with pytest.raises(PrefoptError, match="different whole numbers"):
        load_recipe({"seeds": [1, 1]})
    with pytest.raises(PrefoptError, match="different whole numbers"):
        load_recipe({"seeds": [-1, 1]})
