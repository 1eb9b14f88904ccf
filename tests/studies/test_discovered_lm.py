"""The study of discovered losses on language models: scaling of x, equal budgets, spoiled pairs, resuming, statements."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "studies"))

import discovered_lm as study  # noqa: E402
from discovered_lm_parts import FOUND, KINDS, candidates, rescaled, spoiled, weak_of  # noqa: E402

from prefopt.losses import build_loss  # noqa: E402
from prefopt.losses.mirror import mirror  # noqa: E402
from prefopt.losses.table import LOSSES  # noqa: E402


def parts_of(term):
    return {key: value for key, value in term.items() if key not in ("name", "x")}


@pytest.mark.parametrize("loss", FOUND)
@pytest.mark.parametrize("factor", [0.006, 0.5, 3.0])
def test_a_rescaled_loss_is_the_loss_of_scaled_probabilities(loss, factor):
    chosen, rejected = np.array([-3.0, -1.5, -4.0]), np.array([-3.5, -1.4, -8.0])
    own = mirror(chosen, rejected, **parts_of(rescaled(loss, factor)))
    moved = mirror(chosen + np.log(factor), rejected + np.log(factor), **LOSSES[loss].defaults)
    np.testing.assert_allclose(own, moved, rtol=1e-9)
    assert not np.allclose(own, mirror(chosen, rejected, **LOSSES[loss].defaults))


def test_a_map_with_a_logarithm_is_refused(monkeypatch):
    import dataclasses

    row = LOSSES["quiet"]
    psi = {**row.defaults["psi"], "c": 1.0}
    changed = dataclasses.replace(row, defaults={**row.defaults, "psi": psi})
    monkeypatch.setattr("discovered_lm_parts.LOSSES", {"quiet": changed})
    with pytest.raises(ValueError, match="logarithm"):
        rescaled("quiet", 0.5)


def test_every_loss_has_equally_many_settings_and_all_of_them_build():
    for loss in study.LOSSES:
        found = candidates(loss, 0.8, rate_factor=0.1)
        assert len(found) == 6
        assert len({json.dumps(one.shown, sort_keys=True) for one in found}) == 6
        for one in found:
            build_loss([dict(one.term)])
            assert one.learning_rate <= 1e-4


def test_the_scale_of_x_is_that_of_the_chosen_answers():
    for one in candidates("quiet", 0.8):
        assert one.term["phi_inv"]["a"] * 0.8 == pytest.approx(one.shown["scale_of_x"])


def pairs(n=40):
    return [
        {"id": str(k), "prompt_id": f"p{k // 2}", "split": "eval" if k < 4 else "train",
         "chosen": f"good{k}", "rejected": f"bad{k}"}
        for k in range(n)
    ]  # fmt: skip


def test_noisy_exchanges_its_share_of_the_training_pairs():
    rows = pairs()
    found, share = spoiled(rows, "noisy", {}, 0)
    assert found[:4] == rows[:4]
    moved = [k for k in range(40) if found[k] != rows[k]]
    assert len(moved) == round(KINDS["noisy"] * 36) == round(share * 36)
    for k in moved:
        assert (found[k]["chosen"], found[k]["rejected"]) == (rows[k]["rejected"], rows[k]["chosen"])
    assert spoiled(rows, "noisy", {}, 0)[0] == found != spoiled(rows, "noisy", {}, 1)[0]


def test_mixed_pairs_are_two_different_weak_answers_of_one_prompt():
    rows = pairs()
    weak = weak_of(rows, "rejected")
    found, share = spoiled(rows, "mixed", weak, 0)
    moved = [k for k in range(40) if found[k] != rows[k]]
    assert share == 0.5
    assert len(moved) == 18
    assert min(moved) >= 4
    for k in moved:
        assert found[k]["chosen"] == rows[k]["rejected"] != found[k]["rejected"]
        assert found[k]["rejected"] in weak[rows[k]["prompt_id"]]


def test_mixed_says_what_share_it_reached():
    rows = pairs()
    weak = {
        name: found[:1] for name, found in weak_of(rows, "rejected").items()
    }  # the own one of every second
    weak = {name: found for name, found in weak.items() if name in ("p2", "p3", "p4")}
    assert spoiled(rows, "mixed", weak, 0)[1] == pytest.approx(3 / 36)


# ---- the study without models


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The study with figures that are a function of the setting, and a count of the trainings."""
    monkeypatch.setattr(sys, "argv", ["study", "--json", str(tmp_path / "out.json"), "--seeds", "3",
                                      "--runs", str(tmp_path / "runs")])  # fmt: skip
    calls = []

    def trained(study_, rows, seed, candidate, folder):
        calls.append(seed)
        if len(calls) == fixture.dies_at:
            raise KeyboardInterrupt
        return candidate

    def measured(study_, rows, seed, model, use):
        rate = 0.0 if isinstance(model, str) else model.learning_rate
        value = 0.5 + rate * 100 + 0.01 * seed * (seed < 100)
        return {"accuracy": value, "greedy": value / 2, "pair_accuracy": 0.9,
                "chosen_drift": -rate, "rejected_drift": 0.0}  # fmt: skip

    row = {"split": "train", "ref_chosen_logps": -2.0, "chosen_tokens": 10}
    monkeypatch.setattr(study, "trained", trained)
    monkeypatch.setattr(study, "measured", measured)
    monkeypatch.setattr(study, "material", lambda *_: {key: [row] for key in KINDS})
    monkeypatch.setattr(study.prefopt, "load_dataset", lambda *_, **__: [])
    fixture = argparse.Namespace(calls=calls, dies_at=None, out=tmp_path / "out.json")
    return fixture


def test_tuning_takes_the_best_and_a_killed_study_continues(small):
    small.dies_at = 50
    with pytest.raises(KeyboardInterrupt):
        study.main()
    assert not small.out.exists()
    small.dies_at = None
    study.main()
    cells = 2 * 6 * (6 + 3)
    assert len(small.calls) == cells + 1  # the killed one twice
    found = json.loads(small.out.read_text())
    assert found["kinds"]["mixed"]["arms"]["nll"]["tuned"]["learning_rate"] == 1e-3
    assert found["kinds"]["noisy"]["arms"]["dpo"]["accuracy"]["by_seed"] == pytest.approx([0.52, 0.53, 0.54])
    assert found["kinds"]["noisy"]["arms"]["base"]["accuracy"]["mean"] == pytest.approx(0.51)
    assert len(found["kinds"]["noisy"]["arms"]["quiet"]["tuning"]) == 6
    before = small.out.read_bytes()
    study.main()
    assert len(small.calls) == cells + 1
    assert small.out.read_bytes() == before


def test_statements_are_paired_and_corrected_within_a_measure(small, capsys):
    study.main()
    shown = capsys.readouterr().out
    assert "| dpo | 53.0 ± 2.5 |" in shown  # 0.52, 0.53, 0.54: t 4.303 times 0.01 / sqrt(3)
    assert "| quiet - dpo | noisy | accuracy | +2.0 ± 0.0 |" in shown
    found = json.loads(small.out.read_text())["statements"]
    accuracy = [row for row in found if row["measure"] == "accuracy"]
    assert len(accuracy) == len(found) / 3 == 16
    one = next(row for row in accuracy if row["loss"] == "quiet" and row["against"] == "dpo")
    assert one["mean"] == pytest.approx((4e-4 - 2e-4) * 100)
    assert all(row["p_holm"] >= row["p"] for row in found)


def test_held_out_pairs_of_a_file_are_the_same_for_all_seeds_and_not_those_of_tuning(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(
        json.dumps({"prompt": f"q{k // 2}", "chosen": f"good {k}", "rejected": f"bad {k}"}) + "\n"
        for k in range(120)
    ))  # fmt: skip
    options = argparse.Namespace(
        pairs=path, prompts=20, kinds="noisy,mixed", tuning_prompts=50, test_prompts=50
    )
    first, weak = study.file_pairs(options, 0, tmp_path)
    other, _ = study.file_pairs(options, 1, tmp_path)
    by = [
        {use: [r for r in rows if r["split"] == use] for use in ("train", "tuning", "eval")}
        for rows in (first, other)
    ]
    assert by[0]["eval"] == by[1]["eval"] != []
    assert by[0]["tuning"] == by[1]["tuning"] != []
    assert by[0]["train"] != by[1]["train"]
    prompts = [{row["prompt_id"] for row in by[0][use]} for use in ("train", "tuning", "eval")]
    assert not (prompts[0] & prompts[1])
    assert not (prompts[0] & prompts[2])
    assert not (prompts[1] & prompts[2])
    assert spoiled(first, "mixed", weak, 0)[1] == 0.5


def test_prompts_with_one_weak_answer_get_a_sample_of_the_model(tmp_path, monkeypatch):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"q{k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def sample(rows, **_):
        asked.extend(rows)
        return [{"prompt_id": row["prompt_id"], "completion": "weak"} for row in rows]

    monkeypatch.setattr(study.prefopt, "sample", sample)
    monkeypatch.setattr(study, "rows_of", list)
    options = argparse.Namespace(pairs=path, prompts=20, kinds="mixed", tuning_prompts=9, test_prompts=9,
                                 model="none", max_new_tokens=8)  # fmt: skip
    found, weak = study.file_pairs(options, 0, tmp_path)
    assert len(asked) == 10
    bad, share = spoiled(found, "mixed", weak, 0)
    assert share == 0.5
    assert sum(row["rejected"] == "weak" for row in bad) == 10


@pytest.mark.slow
def test_a_cell_on_the_quickstarts_model(tmp_path, monkeypatch):
    few = {"--prompts": 24, "--tuning-prompts": 8, "--test-prompts": 8, "--steps": 2, "--pairs-per-step": 2}
    monkeypatch.setattr(
        sys, "argv",
        ["study", "--json", str(tmp_path / "o.json"), "--runs", str(tmp_path / "runs"),
         *(str(part) for item in few.items() for part in item)],
    )  # fmt: skip
    options = study.parsed()
    prompts = study.prefopt.load_dataset(f"{study.BUILTIN}test.jsonl", heldout=0.0, limit=8)
    whole = study.Study(options, {"test": prompts})
    tables = study.Tables(whole, "mixed")
    assert 0.5 < study.mean_x(tables.of(0)) < 1
    clean = study.cell(whole, tables, 0, None, "test")
    assert clean["chosen_drift"] == pytest.approx(0, abs=1e-4)
    moved = study.cell(whole, tables, 0, candidates("sorting", 0.8)[-1], "test")
    assert 0 <= moved["accuracy"] <= 1
    assert moved["chosen_drift"] != pytest.approx(0, abs=1e-4)
    assert len(list((tmp_path / "runs" / "cells").iterdir())) == 2
