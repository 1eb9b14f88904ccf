"""The summary of a run against hand computation, and the verdict in words."""

import json
import math

import pytest

from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import BY_NAME
from prefopt.report.summary import print_summary, summarize
from prefopt.report.verdict import alike_once, verdict, warnings_of
from prefopt.stages.evaluate.figures import pair_figures, sample_figures
from prefopt.stages.running import Done
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import make_table, write_json

Z = 1.959963984540054
# right (1) or wrong (0) on ten test prompts
BASE = [1, 1, 0, 0, 0, 0, 0, 0, 1, 0]
SFT = [1, 1, 1, 0, 0, 0, 0, 0, 1, 0]
DROPPED = "Warning (00-data): data dropped 2 of 5 rows (40.0%): empty answer 2."
FULL = [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]  # gains 5 over base, loses 1
# held-out pairs: log-probs (chosen, rejected)
BEFORE = [(-10.0, -8.0), (-10.0, -12.0), (-20.0, -30.0)]
AFTER = [(-9.0, -9.5), (-12.0, -13.0), (-25.0, -26.0)]


def _samples(outcomes, mode):
    return [
        {"kind": "sample", "mode": mode, "id": f"t{k}-{mode}-0", "prompt_id": f"t{k}", "prompt": f"q{k}", "gold": "1",
         "completion": "A: 1", "completion_index": 0, "answer": "1", "is_correct": bool(right),
         "finish_reason": "stop", "completion_tokens": 4}
        for k, right in enumerate(outcomes)
    ]  # fmt: skip


def _pairs(logps):
    return [
        {"kind": "pair", "mode": None, "id": f"e{k}", "prompt_id": f"e{k}", "prompt": f"p{k}", "chosen": "a",
         "rejected": "b", "chosen_logps": c, "rejected_logps": r, "ref_chosen_logps": BEFORE[k][0],
         "ref_rejected_logps": BEFORE[k][1], "chosen_tokens": 5, "rejected_tokens": 5}
        for k, (c, r) in enumerate(logps)
    ]  # fmt: skip


def _finish(path, name, rows, quality, rows_in=None, dropped=None):
    folder = StageFolder(path / BY_NAME[name].folder_name)
    folder.timings.append({"what": "stage", "seconds": 1.5})
    folder.timings.append({"what": "a part", "seconds": 9.0})
    output = StageOutput(make_table(rows), dropped or {}, quality)
    folder.finish(name, output, {"key": str(path), "rows_in": rows_in, "seed": 3})
    return Done(str(path), folder)


def _evaluated(path, sampled, greedy, logps):
    rows = [*_samples(sampled, "sampled"), *_samples(greedy, "greedy"), *_pairs(logps)]
    return _finish(path, "evaluate", rows, {**sample_figures(rows), "pairs": pair_figures(rows)})


def _train(path, loss):
    quality = {
        "loss": [{"name": loss, "hyperparameters": {}, "scale": 1.0}],
        "pairs": 2,
        "steps": 4,
        "warnings": [],
    }
    return _finish(path, "train", [{"step": 1, "loss": 0.7}], quality)


@pytest.fixture
def run(tmp_path):
    root = tmp_path / "run"
    pairs = [
        {"id": f"e{k}", "prompt_id": f"e{k}", "prompt": "p", "chosen": "a", "rejected": "b"} for k in range(3)
    ]
    data = _finish(root, "data", pairs, {"kind": "pairs"}, rows_in=5, dropped={"empty answer": 2})
    write_json(root / "01-sample.skipped.json", {"stage": "sample", "skipped": "the input holds pairs"})
    write_json(root / "02-judge.skipped.json", {"stage": "judge", "skipped": "the input holds pairs"})
    chains = {
        "sft": {"data": data, "train": _train(root / "arms/sft", "nll")},
        "full": {"data": data, "train": _train(root, "dpo")},
    }
    evaluated = {
        "base": _evaluated(root / "arms/base", BASE, [1] * 10, BEFORE),
        "sft": _evaluated(root / "arms/sft", SFT, [1] * 10, BEFORE),
        "full": _evaluated(root, FULL, [1] * 9 + [0], AFTER),
    }
    recipe = Recipe(name="r", about="a", seed=7, model="DIR", arms={"sft": {}, "full": {}})
    return root, recipe, chains, evaluated


@pytest.fixture
def summary(run):
    return summarize(*run, 12.345)


def test_it_is_json_and_writes_nothing(run):
    root = run[0]
    before = sorted(root.rglob("*"))
    found = summarize(*run, 1.0)
    assert json.loads(json.dumps(found)) == found
    assert sorted(root.rglob("*")) == before


def test_accuracy_with_wilson_intervals(summary):
    n, p = 10, 0.7
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    full = summary["accuracy"]["full"]
    assert (full["mean"], full["n"]) == (0.7, 10)
    assert full["low"] == pytest.approx(centre - half)
    assert full["high"] == pytest.approx(centre + half)
    assert [summary["accuracy"][arm]["mean"] for arm in ("base", "sft")] == [0.3, 0.4]
    assert summary["greedy"]["full"]["mean"] == 0.9
    assert summary["pass_at_k"]["full"] == {"1": 0.7}
    assert summary["mean_tokens"] == {"base": 4.0, "sft": 4.0, "full": 4.0}
    assert summary["headline"] == "accuracy"


def test_paired_differences_and_mcnemar(summary):
    change = summary["paired"]["full"]["base"]["accuracy"]
    assert (change["gained"], change["lost"], change["n"]) == (5, 1, 10)
    assert change["mean"] == pytest.approx(0.4)
    # Bonett and Price: one added to both discordant counts, two to n
    p12, p21 = 6 / 12, 2 / 12
    half = Z * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / 12)
    assert change["low"] == pytest.approx(p12 - p21 - half)
    assert change["high"] == pytest.approx(p12 - p21 + half)
    # Binomial(6, 1/2): 2 (1 + 6) / 64
    assert change["mcnemar_p"]["exact"] == pytest.approx(14 / 64)
    assert set(summary["paired"]) == {"sft", "full"}
    assert set(summary["paired"]["full"]) == {"base", "sft"}
    assert set(summary["paired"]["sft"]) == {"base"}
    against_sft = summary["paired"]["full"]["sft"]["accuracy"]
    assert (against_sft["gained"], against_sft["lost"]) == (4, 1)


def test_held_out_pairs_before_and_after(summary):
    found = summary["pair_accuracy"]
    assert found["base"]["mean"] == pytest.approx(2 / 3)
    assert found["full"]["mean"] == 1.0
    assert found["full"]["before"] == found["base"]
    assert (found["full"]["pairs"], found["full"]["n"]) == (3, 3)
    # margins change by +2.5, -1 and -9: one of three rewards is right
    assert found["full"]["reward"]["mean"] == pytest.approx(1 / 3)
    assert found["sft"]["reward"]["mean"] == 0.5
    change = summary["paired"]["full"]["base"]["pair_accuracy"]
    assert (change["gained"], change["lost"]) == (1, 0)


def test_chosen_drift(summary):
    # +1, -2 and -5 nats on 40 nats
    assert summary["chosen_drift"] == {"sft": 0.0, "full": -2.0}
    assert summary["chosen_drift_share"]["full"] == pytest.approx(-6 / 40)
    assert summary["warnings"] == [DROPPED]


def test_flow_folders_and_seconds(summary):
    assert [(s["number"], s["stage"]) for s in summary["flow"]] == [
        (0, "data"), (1, "sample"), (2, "judge"), (7, "train"), (8, "evaluate"),
    ]  # fmt: skip
    first = summary["flow"][0]
    assert (first["rows_in"], first["rows_out"], first["dropped"]) == (5, 3, {"empty answer": 2})
    assert summary["flow"][1]["skipped"] == "the input holds pairs"
    assert summary["folders"] == {
        "base": {"evaluate": "arms/base/08-evaluate"},
        "sft": {"data": "00-data", "train": "arms/sft/07-train", "evaluate": "arms/sft/08-evaluate"},
        "full": {"data": "00-data", "train": "07-train", "evaluate": "08-evaluate"},
    }
    assert set(summary["stage_seconds"].values()) == {1.5}
    assert (summary["seconds"], summary["seed"], summary["main"]) == (12.35, 7, "full")
    assert summary["arms"]["sft"]["loss"][0]["name"] == "nll"
    assert summary["settings"]["model"] == "DIR"


def test_without_test_prompts_pairs_lead(run):
    root, recipe, chains, _ = run
    evaluated = {
        arm: _evaluated(root / "p" / arm, [], [], logps)
        for arm, logps in (("base", BEFORE), ("sft", BEFORE), ("full", AFTER))
    }
    found = summarize(root, recipe, chains, evaluated, 1.0)
    assert found["headline"] == "pair_accuracy"
    assert found["accuracy"] is None
    assert found["verdict"][0].startswith(
        "Held-out pairs ranked rightly: full 100.0% against base 66.7%: +33.3 points"
    )
    assert any("By implicit reward" in said for said in found["verdict"])


def test_without_evaluation_nothing_is_claimed(run):
    root, recipe, chains, _ = run
    found = summarize(root, recipe, chains, {}, 1.0)
    assert found["headline"] is None
    assert found["paired"] == {}
    assert found["verdict"] == [
        "Nothing was measured: the run has neither test prompts nor held-out pairs.",
        DROPPED,
    ]


def test_the_smoke_model_is_called_one(run):
    root, recipe, chains, evaluated = run
    found = summarize(root, recipe.model_copy(update={"model": "tiny"}), chains, evaluated, 1.0)
    assert "smoke model" in found["verdict"][-1]
    assert found["warnings"] == [DROPPED, *found["verdict"][-1:]]


def _worded(low, mean, high):
    change = {"mean": mean, "low": low, "high": high}
    share = {"full": {"mean": 0.712}, "sft": {"mean": 0.712 - mean}}
    return verdict({
        "headline": "accuracy", "main": "full", "arms": {"sft": {}, "full": {}}, "accuracy": share,
        "paired": {"full": {"sft": {"accuracy": change}}},
    })  # fmt: skip


def test_verdict_says_plainly_who_won():
    assert _worded(0.021, 0.052, 0.083) == [
        "Sampled accuracy: full 71.2% against sft 66.0%: +5.2 points [+2.1, +8.3], a clear gain."
    ]
    assert _worded(-0.01, 0.02, 0.05)[0].endswith("+2.0 points [-1.0, +5.0], no clear difference.")
    assert _worded(-0.08, -0.05, -0.02)[0].endswith("-5.0 points [-8.0, -2.0], clearly worse.")


def test_greedy_against_base_follows_the_headline(summary):
    assert len(summary["verdict"]) == 4
    assert summary["verdict"][3:] == summary["warnings"] == [DROPPED]
    assert summary["verdict"][2].startswith("Greedy accuracy: full 90.0% against base 100.0%: -10.0 points")


@pytest.mark.parametrize(("share", "warned"), [(-0.21, True), (-0.19, False), (0.5, False)])
def test_a_fall_of_more_than_a_fifth_is_warned_of(share, warned):
    found = warnings_of({
        "chosen_drift": {"dpo": 10 * share}, "chosen_drift_share": {"dpo": share},
        "arms": {"dpo": {"warnings": ["step 9: the log-prob of the chosen answers has fallen"]}},
    })  # fmt: skip
    assert bool(found) == warned
    assert all("dpo" in said and "21%" in said for said in found)


def test_trainer_warnings_stand_where_nothing_else_tells_of_them():
    arm = {"warnings": ["step 0: the largest reward is 3", "step 9: the log-prob has fallen"]}
    base = {"chosen_drift": None, "chosen_drift_share": None, "arms": {"full": arm, "sft": {"loss": None}}}
    assert len(warnings_of(base)) == 2
    known = {**base, "chosen_drift": {"full": 0.1}, "chosen_drift_share": {"full": 0.01}}
    assert [("step 0" in said) for said in warnings_of(known)] == [True]


def test_terminal_shows_arms_verdict_and_the_path_alone_on_a_line(summary, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / ("deep" * 30) / "report.html"
    print_summary(summary, path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(path)
    rows = [line for line in lines if "%" in line and "[" in line and "against" not in line]
    assert [row.split()[0] for row in rows[:3]] == ["base", "sft", "full"]
    assert "70.0% [39.7, 89.2]" in "\n".join(rows)


def test_terminal_output_survives_markup_in_names(summary, tmp_path, capsys):
    summary["verdict"] = ["[bold]x[/nonsense] [red]"]
    print_summary(summary, tmp_path / "[x]" / "report.html")
    out = capsys.readouterr().out
    assert "[bold]x[/nonsense] [red]" in out
    assert "[x]" in out.splitlines()[-1]


def test_warnings_that_differ_in_place_and_numbers_alone_are_said_once():
    said = [
        "Warning (01-sample): sample: 42.7% of 2,640 completions were cut.",
        "Warning (arms/a/08-evaluate): evaluate, greedy: 40% of 96 completions were cut.",
        "Warning: in a the log-prob fell by 91%.",
        "Warning (arms/b/08-evaluate): evaluate, greedy: 7.5% of 1,200 completions were cut.",
        "Warning: in b the log-prob fell by 95%.",
        "Warning (08-evaluate): evaluate, greedy: 41% of 96 completions were cut.",
    ]
    assert alike_once(said) == [
        said[0],
        f"{said[1]} Alike: arms/b/08-evaluate, 08-evaluate.",
        said[2],
        said[4],
    ]
    assert alike_once([]) == []
    assert alike_once([said[0], said[0]]) == [f"{said[0]} Alike: 01-sample."]
