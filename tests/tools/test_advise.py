"""`prefopt advise`: planted data in, estimates and the suite's figures out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from prefopt.cli.app import call, main
from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.tables.context import Context
from prefopt.tools.advise import axes
from prefopt.tools.advise.advise import advise, lines
from prefopt.tools.advise.settings import AdviseConfig

REPO = Path(__file__).resolve().parents[2]
FAST = parse_config(AdviseConfig, {"draws": 20}, "test")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def planted(noise, equal, *, count=500, apart=2.0, scores=False):
    """Rows with reference log-probs whose gaps per token are a planted mixture, of two pairs per prompt."""
    rng = np.random.default_rng([count, round(100 * noise), round(100 * equal)])
    near, wrong = rng.random(count) < equal, rng.random(count) < noise
    gaps = 0.05 * np.where(near, 0.4 * rng.standard_normal(count), apart + rng.standard_normal(count))
    rows = []
    for k, gap in enumerate(np.where(wrong, -gaps, gaps).tolist()):
        row = {
            "prompt": f"question {k // 2}", "chosen": f"answer {k} of some length", "rejected": f"other {k}",
            "ref_chosen_logps": 20 * (gap - 1.0), "ref_rejected_logps": -10.0, "chosen_tokens": 20, "rejected_tokens": 10,
        }  # fmt: skip
        if scores:
            better, worse = (3.0, 3.0) if near[k] else (4.0, 2.0)
            both = (worse, better) if wrong[k] else (better, worse)
            row |= dict(zip(("score_chosen", "score_rejected"), both, strict=True))
        rows.append(row)
    return rows, float(wrong[~near].mean()), float(near.mean())


@pytest.mark.parametrize(("noise", "equal"), [(0.0, 0.0), (0.2, 0.0), (0.3, 0.3)])
def test_planted_pairs_are_told_by_gaps_and_by_scores(tmp_path, noise, equal):
    rows, wrong, near = planted(noise, equal, scores=True)
    found = advise(write(tmp_path / "pairs.jsonl", rows), FAST)
    told = found["estimates"]
    assert told["noise"]["value"] == pytest.approx(wrong, abs=0.07)
    assert told["equal"]["value"] == pytest.approx(near, abs=0.07) or told["equal"]["high"] >= near
    assert told["noise_by_scores"]["value"] == pytest.approx(wrong)
    assert told["equal_by_scores"]["value"] == pytest.approx(near)
    assert told["noise_by_scores"]["low"] <= wrong <= told["noise_by_scores"]["high"]
    assert bool(told["noise_by_scores"]["unsure"]) == (
        wrong == 0
    )  # labels made from the scores show no noise
    assert told["longer_chosen"]["value"] == 1.0
    assert told["size"] == {"pairs": 500, "prompts": 250}
    assert not told["noise"]["unsure"]
    assert found["places"]["noise"] == (["base"] if noise == 0 else ["noisy:0.2"])


def test_what_cannot_be_told_says_so(tmp_path):
    rows, _, _ = planted(0.2, 0.0, count=60)
    few = advise(write(tmp_path / "few.jsonl", rows), FAST)
    assert "at least 100" in few["estimates"]["noise"]["unsure"]
    assert few["places"]["noise"] == ["base", "noisy:0.2"]  # all of the axis
    rows, _, _ = planted(0.2, 0.0, apart=0.2)
    flat = advise(write(tmp_path / "flat.jsonl", rows), FAST)
    assert flat["estimates"]["noise"]["unsure"]
    two = [
        row | {"ref_chosen_logps": -20 + 5 * (k % 7 == 0) + 0.01 * (k % 3)}
        for k, row in enumerate(planted(0.0, 0.0)[0])
    ]
    lumps = advise(write(tmp_path / "lumps.jsonl", two), FAST)  # two spikes: no mixture of hills
    assert lumps["estimates"]["noise"]["unsure"]
    text = "\n".join(lines(flat))
    assert "unsure: " in text
    assert "all of this axis" in text


def test_without_log_probs_only_texts_and_scores_are_read(tmp_path, capsys):
    rows = [{"prompt": f"q{k}", "chosen": "yes" * (1 + k % 3), "rejected": "nono"} for k in range(12)]
    rows += [{"prompt": "q0", "chosen": "nono", "rejected": "yes"}, rows[3]]
    source = write(tmp_path / "pairs.jsonl", rows)
    call(["advise", "--data", source, "--output", str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "advice.json").read_text())["estimates"]
    assert told["noise"] is None
    assert told["contradictory"]["value"] == pytest.approx(2 / 13)
    assert told["repeated"]["value"] == pytest.approx(1 / 14)
    assert told["longer_chosen"]["value"] == pytest.approx((8 + 1) / 13)
    limited = advise(source, parse_config(AdviseConfig, {"limit": 5}, "test"))["estimates"]
    assert limited["size"]["pairs"] == 5
    assert limited["repeated"]["value"] == pytest.approx(1 / 14)  # of all that was read
    shown = capsys.readouterr().out
    assert "give --model DIR" in shown
    assert "lineages 9-16" in shown
    assert "kto" in shown


def test_log_probs_that_are_there_are_taken_and_the_model_is_not(tmp_path, capsys):
    rows, _, _ = planted(0.0, 0.0, count=4)
    found = advise(write(tmp_path / "pairs.jsonl", rows), FAST, Context(model=tmp_path))
    assert found["estimates"]["mixture"]["n"] == 4
    assert "the model is not read" in capsys.readouterr().err


def test_a_pass_of_the_quickstart_model(tmp_path):
    """The gaps of a real model, and that one who knows the answers sees turned labels in them."""
    pool = [json.loads(line) for line in _quickstart().read_text().splitlines()[:40]]
    rows = [
        {"prompt": row["prompt"], "chosen": row["answer"], "rejected": f"{row['answer']}0 or so"}
        for row in pool
    ]
    source = write(tmp_path / "pairs.jsonl", rows)
    from prefopt.models.find import resolve_model

    model = resolve_model("builtin:quickstart/base")
    found = advise(source, FAST, Context(model=model))
    assert found["estimates"]["mixture"]["n"] == found["estimates"]["size"]["pairs"] > 0
    assert found["estimates"]["longer_chosen"]["from"] == "tokens"
    assert found["estimates"]["noise"]["unsure"]  # 40 pairs are few
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    other = advise(write(tmp_path / "turned.jsonl", turned), FAST, Context(model=model))
    assert other["estimates"]["mixture"]["centre"] == pytest.approx(
        -found["estimates"]["mixture"]["centre"], rel=1e-3
    )


def _quickstart():
    import prefopt.recipes

    return Path(prefopt.recipes.__file__).parent / "quickstart" / "train.jsonl"


def test_bad_words_are_one_line(tmp_path, capsys):
    source = write(tmp_path / "prompts.jsonl", [{"prompt": "only"}])
    for words, told in (
        (["--data", source], "holds no pairs"),
        (["--data", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["--data", source, "--gap", "max"], "gap"),
        (["--data", source, "--draw", "30"], "did you mean"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["advise", *words])
        error = capsys.readouterr().err
        assert end.value.code == 2
        assert told in error
    rows, _, _ = planted(0.0, 0.0, count=4)
    bare = [
        {key: value for key, value in row.items() if key not in ("chosen_tokens", "rejected_tokens")}
        for row in rows
    ]
    with pytest.raises(PrefoptError, match="--gap sum"):
        advise(write(tmp_path / "bare.jsonl", bare), FAST)


# ---- the suite's figures


def test_packaged_figures_are_the_committed_results():
    pytest.importorskip("scipy")
    path = REPO / "tools" / "advise_figures.py"
    spec = importlib.util.spec_from_file_location("advise_figures", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert axes.load_figures() == tool.figures(), "run python tools/advise_figures.py"
    result = json.loads(tool.SOURCE.read_text())
    start = {row["seed"]: row["reference"]["return"] for row in result["lineages"]}
    by_hand = np.array(result["rows"][0]["returns"]) - list(start.values())
    assert axes.load_figures()["rows"][0]["gain"] == pytest.approx(by_hand.mean(), abs=0.06)


def test_places_and_verdicts_by_hand():
    row = {"mean": 5.0, "half_width": 1.0}
    made = {
        "rows": [
            {"method": name, "variant": variant, **row, "gain": gain, "gain_half_width": 2.0}
            for name, variant, gain in (
                ("a", "base", 3.0), ("b", "base", -3.0), ("c", "base", 1.0), ("a", "noisy:0.2", 0.0), ("a", "noisy:0.4", 0.0),
            )
        ]
    }  # fmt: skip
    assert [row["verdict"] for row in axes.methods_on(made, "base")] == ["held", "fell", "undecided"]
    estimate = {"value": 0.13, "low": 0.11, "high": 0.14, "unsure": ""}
    assert axes.place(made, "noisy", estimate) == ["noisy:0.2"]  # the nearest
    assert axes.place(made, "noisy", estimate | {"low": 0.0, "high": 0.25}) == ["base", "noisy:0.2"]
    assert axes.place(made, "noisy", estimate | {"unsure": "wide"}) == ["base", "noisy:0.2", "noisy:0.4"]
    assert axes.lineages_text([9, 10, 11]) == "9-11"
    assert axes.lineages_text([1, 4]) == "1, 4"
