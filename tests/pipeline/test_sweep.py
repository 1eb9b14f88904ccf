"""A recipe with `sweep`: equal budgets, prompts of its own, the highest figure, and a killed one that ends the same."""

import json
import re
import shutil

import pytest

from prefopt.core.errors import Diverged, PrefoptError
from prefopt.pipeline import sweep as sweeping
from prefopt.pipeline.plan import plan
from prefopt.pipeline.recipe import load_recipe, resolve_sweep
from prefopt.pipeline.sweep import run_sweep, tuning_recipe, walk_candidates, with_chosen
from prefopt.pipeline.sweep_choice import best, figure_of
from prefopt.report import write_report
from prefopt.report.sweep import sweep_lines
from prefopt.rules.content import prompt_words
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import file_digest, rows_of

RATES = {"train.learning_rate": [1e-5, 3e-3]}


def _pairs(path, numbers):
    rows = [{"prompt": f"{k}+1=", "chosen": str(k + 1), "rejected": str(k + 2)} for k in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    return {
        "name": "small",
        "model": "builtin:quickstart/base",
        "data": {"path": _pairs(folder / "pairs.jsonl", range(9)), "heldout": 0.3},
        "select": None,
        "weight": None,
        "train": {"steps": 2, "pairs_per_step": 2, "pairs_per_micro_batch": 2, "learning_rate": 1e-3},
        "evaluate": {"pairs": "heldout"},
        "arms": {
            "sft": {"train": {"loss": "nll"}},
            "dpo": {"train": {"loss": [{"name": "dpo", "beta": 0.1}]}},
        },
        "sweep": {
            "data": {"path": _pairs(folder / "tune.jsonl", range(20, 28))},
            "figure": "pairs",
            "all": RATES,
        },
    }


def _changed(given, **sweep):
    return {**given, "sweep": {**given["sweep"], **sweep}}


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, run_sweep(load_recipe(given), folder)


def _digests(folder):
    """What does not depend on the wall clock: tables, models, the choice."""
    names = ("part-*.parquet", "*.safetensors", "sweep.json", "diverged.json")
    return {p.relative_to(folder): file_digest(p) for name in names for p in sorted(folder.rglob(name))}


# ---- what is tried


def test_a_grid_is_all_combinations_and_a_list_is_taken_as_it_is(given):
    grid = {"train": {"learning_rate": [1e-5, 1e-4]}, "train.loss.0.beta": [0.05, 0.5]}
    whole = [{"train": {"loss": "nll", "warmup": w}} for w in (0.0, 0.1, 0.2, 0.3)]
    found = resolve_sweep(load_recipe(_changed(given, all=None, arms={"dpo": grid, "sft": whole})))
    tried = [
        (c.override["train"]["learning_rate"], c.override["train"]["loss"][0]["beta"]) for c in found["dpo"]
    ]
    assert tried == [(1e-5, 0.05), (1e-5, 0.5), (1e-4, 0.05), (1e-4, 0.5)]
    assert [c.name for c in found["dpo"]] == ["dpo-1", "dpo-2", "dpo-3", "dpo-4"]
    assert [c.override["train"]["warmup"] for c in found["sft"]] == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"arms": {"dpo": {"train.learning_rate": [1e-5, 1e-4, 1e-3]}}}, r"sft 2, dpo 3.*sweep.unequal"),
        ({"all": None, "arms": {"dpo": RATES}}, r"sft 1, dpo 2"),
        ({"all": {"train.learning_rate": [1e-5]}}, "nothing to choose"),
        ({"all": {"train.learning_rate": 1e-5}}, "give a list of the values"),
        ({"all": [{"train.steps": 1}, {"train": {"steps": 1}}]}, "stands twice"),
        ({"all": {"train.lerning_rate": [1, 2]}}, "did you mean 'learning_rate'"),
        ({"all": {"trian.steps": [1, 2]}}, "did you mean 'train'"),
        ({"all": {"evaluate.n": [1, 2]}}, "no choice of a sweep"),
        ({"all": {"train.loss.1.beta": [0.1, 0.2]}}, "give train.loss as a whole"),
        ({"arms": {"dpo": {"train.loss.1.beta": [0.1, 0.2]}}}, "none of its places"),
        ({"arms": {"dpp": RATES}}, "did you mean 'dpo'"),
        ({"seed": 0}, "seed of the report"),
        ({"share": 0.1}, "either data"),
        ({"data": None}, "either data"),
        ({"figur": "pairs"}, "did you mean 'figure'"),
    ],
)
def test_what_cannot_be_meant_is_an_error_before_anything_runs(given, sweep, said):
    with pytest.raises(PrefoptError, match=said):
        load_recipe(_changed(given, **sweep))


def test_unequal_budgets_are_there_for_whoever_asks(given):
    recipe = load_recipe(_changed(given, arms={"sft": None}, unequal=True))
    assert list(tuning_recipe(recipe).arms) == ["dpo-1", "dpo-2"]
    figures = {"figure": "pairs", "arms": {"sft": {"chosen": "sft-1", "candidates": [{}]}}}
    assert sweep_lines(figures) == ["sft: not tuned"]


def test_the_highest_is_chosen_and_the_first_of_equal_ones():
    tried = [{"name": "a-1", "failed": "NaN"}, {"name": "a-2", "mean": 0.5}, {"name": "a-3", "mean": 0.5}]
    assert best("a", tried) == "a-2"
    assert best("a", [*tried, {"name": "a-4", "mean": 0.6}]) == "a-4"
    with pytest.raises(PrefoptError, match="no setting trained to an end"):
        best("a", [tried[0], tried[0]])


# ---- prompts of its own


@pytest.mark.parametrize("where", ["data", "test"])
def test_a_tuning_prompt_of_the_run_or_its_test_is_an_error(given, where, tmp_path):
    rows = [{"prompt": f"{prompt} \n", "chosen": "a", "rejected": "b"} for prompt in ("25+1=", "7+7=")]
    extra = tmp_path / "extra.jsonl"
    extra.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = (
        {**given, "data": {"path": [given["data"]["path"], str(extra)], "heldout": 0.3}}
        if where == "data"
        else {**given, "evaluate": {"data": {"path": str(extra)}}}
    )
    name = "the run's data" if where == "data" else "the test prompts"
    with pytest.raises(PrefoptError, match=rf"1 of 8 tuning prompts are in {name}.*'25\+1='"):
        run_sweep(load_recipe(recipe), tmp_path / "run")


def test_a_share_is_the_same_with_every_seed_and_in_no_other_part(given):
    def words(part, seed):
        config = DataConfig(path=given["data"]["path"], tuning=0.3, part=part, heldout=0.2)
        return {prompt_words(row["prompt"]) for row in rows_of(data(None, config, Context(seed)).table)}

    assert words("tuning", 0) == words("tuning", 7)
    assert words("rest", 0) == words("rest", 7)
    assert not words("tuning", 0) & words("rest", 0)
    assert len(words("tuning", 0) | words("rest", 0)) == 9
    recipe = load_recipe({**given, "sweep": {"share": 0.3, "figure": "pairs", "all": RATES}})
    assert with_chosen(recipe, None).data.tuning == tuning_recipe(recipe).data.tuning == 0.3


# ---- the run


def test_the_choice_is_the_best_measured_one_and_the_run_is_that_of_the_chosen_recipe(given, done):
    folder, summary = done
    found = json.loads((folder / "sweep" / "sweep.json").read_text())
    assert summary["sweep"] == found
    assert (found["figure"], found["seed"]) == ("pairs", 1000)
    chosen = with_chosen(load_recipe(given), found)
    for arm, tried in found["arms"].items():
        means = [one["mean"] for one in tried["candidates"]]
        best_one = tried["candidates"][means.index(max(means))]
        assert tried["chosen"] == best_one["name"]
        assert all(one["n"] == 8 for one in tried["candidates"])
        assert chosen.arms[arm]["train"]["learning_rate"] == best_one["settings"]["train.learning_rate"]
        manifest = StageFolder(folder / summary["folders"][arm]["train"]).manifest
        assert manifest["config"]["learning_rate"] == chosen.arms[arm]["train"]["learning_rate"]
        assert manifest["quality"]["loss"][0]["name"] == ("nll" if arm == "sft" else "dpo")
    assert chosen.sweep is None
    assert json.loads((folder / "run.json").read_text())["settings"]["sweep"]["all"] == RATES


def test_candidates_share_what_comes_before_and_leave_no_model(done):
    folder, _ = done
    sweep = folder / "sweep"
    assert len(list(sweep.rglob("04-reference/manifest.json"))) == 1
    assert (
        len(list(sweep.rglob("07-train/manifest.json")))
        == len(list(sweep.rglob("08-evaluate/manifest.json")))
        == 4
    )
    assert not list(sweep.rglob("*.safetensors"))
    for path in sweep.rglob("manifest.json"):
        assert StageFolder(path.parent).damage(digests=True) == []
    assert (folder / "07-train/model/model.safetensors").is_file()


def test_again_does_nothing_and_a_lost_measure_is_made_anew(given, done, monkeypatch, capsys):
    folder, summary = done
    before = _digests(folder)
    trained = []
    work = sweeping.execute
    monkeypatch.setattr(
        sweeping,
        "execute",
        lambda state, stage, *a, **k: trained.append(stage.name) or work(state, stage, *a, **k),
    )
    assert run_sweep(load_recipe(given), folder) == summary
    assert _digests(folder) == before
    shutil.rmtree(folder / "sweep/arms/sft-2/08-evaluate")
    run_sweep(load_recipe(given), folder)
    assert _digests(folder) == before
    assert "settings changed" not in capsys.readouterr().err


def test_a_killed_sweep_ends_with_the_same_bytes(given, done, tmp_path, monkeypatch):
    folder, _ = done
    work = sweeping.execute
    seen = []

    def dying(state, stage, config, home, *args, **more):
        found = work(state, stage, config, home, *args, **more)
        seen.append(stage.name)
        if seen.count("train") == 3:  # two candidates are measured and their models gone
            raise KeyboardInterrupt
        return found

    recipe, place = load_recipe(given), tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "execute", dying)
        with pytest.raises(KeyboardInterrupt):
            sweeping.tune(recipe, place)
    assert len(list(place.rglob("model.safetensors"))) == 1
    sweeping.tune(recipe, place)
    assert _digests(place) == _digests(folder / "sweep")


def test_a_training_that_ends_in_no_number_is_out_and_not_tried_again(given, tmp_path, monkeypatch):
    tries = []

    def failing(state, stage, config, home, *args, **more):
        if stage.name == "train" and config.learning_rate == 3e-3:
            tries.append(home)
            raise Diverged("train: the loss is NaN or infinite at step 1")
        return work(state, stage, config, home, *args, **more)

    work = sweeping.execute
    monkeypatch.setattr(sweeping, "execute", failing)
    recipe = load_recipe({k: v for k, v in given.items() if k != "arms"})
    figures = sweeping.tune(recipe, tmp_path / "sweep")
    assert figures["arms"]["main"]["chosen"] == "main-1"
    assert "NaN" in figures["arms"]["main"]["candidates"][1]["failed"]
    assert sweeping.tune(recipe, tmp_path / "sweep") == figures
    assert len(tries) == 1
    assert "1 ended in no number" in sweep_lines(figures)[0]


@pytest.mark.slow
def test_seeds_follow_one_sweep_and_the_pages_show_all_that_was_tried(given, done, tmp_path):
    folder, _ = done
    shutil.copytree(folder / "sweep", tmp_path / "run/sweep")
    shutil.copy(folder / "run.json", tmp_path / "run")
    summary = run_sweep(load_recipe({**given, "seeds": [3]}), tmp_path / "run")
    assert summary["seeds"] == [3]
    assert summary["sweep"] == json.loads((folder / "sweep/sweep.json").read_text())
    assert _digests(tmp_path / "run/sweep") == _digests(folder / "sweep")
    for place in (folder, tmp_path / "run"):
        page = write_report(place).read_text()
        assert re.findall(r"train.learning_rate ([\d.e-]+)", page.split('id="sweep"')[1].split("</section>")[0]) == [
            "1e-05", "0.003", "1e-05", "0.003",
        ]  # fmt: skip
    assert 'id="sweep"' not in write_report(tmp_path / "run/seeds/3").read_text()


def test_sampled_answers_decide_by_the_score_of_a_check(given, tmp_path):
    rows = [{"prompt": f"{k}+1=", "answer": str(k + 1)} for k in range(30, 34)]
    (tmp_path / "tune.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "checks.py").write_text("def check(prompt, completion, row):\n    return 0.25\n")
    verifier = {"kind": "function", "path": str(tmp_path / "checks.py")}
    data = {"path": str(tmp_path / "tune.jsonl")}
    recipe = load_recipe({
        **{k: v for k, v in given.items() if k != "arms"},
        "evaluate": {"max_new_tokens": 4, "verifier": verifier},
        "sweep": {"data": data, "figure": "score", "n": 2, "all": [{"train.steps": 1}, {"train": None}]},
    })  # fmt: skip
    tried = sweeping.tune(recipe, tmp_path / "sweep")["arms"]["main"]
    assert [(one["mean"], one["n"]) for one in tried["candidates"]] == [(0.25, 4), (0.25, 4)]
    assert tried["chosen"] == "main-1"
    rows = rows_of(StageFolder(tmp_path / "sweep/08-evaluate").table())
    assert [row["mode"] for row in rows] == ["sampled"] * 8
    with pytest.raises(PrefoptError, match="no tuning prompt has one"):
        figure_of(type("Done", (), {"folder": StageFolder(tmp_path / "none")}), "pairs")


def test_the_plan_counts_every_candidate(given, tmp_path):
    recipe = load_recipe(given)
    found = plan(tuning_recipe(recipe), tmp_path / "x", way=lambda state: walk_candidates(state, recipe))
    names = [step.stage for step in found.steps]
    assert (names.count("train"), names.count("evaluate"), names.count("reference")) == (4, 4, 1)
    assert not (tmp_path / "x").exists()
