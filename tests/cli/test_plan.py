"""`prefopt run --dry-run`: the plan is what the run does, its counts bound what comes, and nothing is written."""

import json
import re
from functools import partial

import pytest
import torch
from command import command

from prefopt.core.errors import PrefoptError
from prefopt.models.find import resolve_model
from prefopt.models.load import load_model
from prefopt.models.lora import add_adapter
from prefopt.pipeline import costs
from prefopt.pipeline.costs import learning_rates, measure, model_size, training_bytes
from prefopt.pipeline.expected import steps_of
from prefopt.pipeline.plan import plan
from prefopt.pipeline.plan_text import plan_text, seconds_of
from prefopt.pipeline.recipe import load_recipe
from prefopt.stages.train.settings import LoraSettings, TrainConfig
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import file_digest
from prefopt.training.schedule import rate, warm_steps

BASE = "builtin:quickstart/base"


def _files(folder):
    return {path: file_digest(path) for path in folder.rglob("*") if path.is_file()}


def test_after_a_run_all_is_reused_and_nothing_is_written(done):
    folder, file, _ = done
    before = _files(folder)
    shown = command("run", file, "--output", folder / "run", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if "  reused " in line]
    assert len(lines) == 12  # 7 stages of arm two, weight and train of one, three evaluations
    assert "to do" not in shown.stdout
    assert _files(folder) == before


def test_a_changed_setting_shows_what_is_done_anew(done):
    folder, file, _ = done
    found = plan(load_recipe(file, {"select": {"fraction": 0.25}}), folder / "run")
    ways = {step.folder.relative_to(folder / "run").as_posix(): (step.way, step.anew) for step in found.steps}
    assert ways["04-reference"] == ("reused", False)
    assert ways["05-select"] == ways["07-train"] == ways["08-evaluate"] == ("to do", True)
    assert ways["arms/one/07-train"] == ("reused", False)


def test_counts_bound_what_the_run_has(done, tmp_path):
    folder, file, _ = done
    shown = command("run", file, "--output", tmp_path / "new", "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert not (tmp_path / "new").exists()
    assert "at most" in shown.stdout
    found = plan(load_recipe(file), tmp_path / "new")
    assert [step.place for step in found.steps][2].startswith("stage 3 of 8, arm two")
    for step in found.steps:
        there = folder / "run" / step.folder.relative_to(tmp_path / "new")
        manifest = StageFolder(there).manifest
        if step.stage == "train":
            quality = manifest["quality"]
            assert step.rows.train >= quality["pairs"]
            assert steps_of(step.config, step.rows.train) == quality["steps"]
        else:
            assert step.rows.rows >= manifest["rows_out"]
            assert step.rows.most or step.rows.rows == manifest["rows_out"]


def test_times_and_memory_are_told_with_their_rule(tmp_path):
    rows = [{"prompt": f"{k}+1?", "answer": str(k + 1)} for k in range(6)]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "quickstart", "--data", data, "--output", tmp_path / "x", "--dry-run", "--sample.n", "2"]
    shown = command(*words, "--evaluate.limit", "4")
    assert shown.exit_code == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "model: 794,752 parameters, float32, 3.18 MB" in text
    assert "at most 12 rows" in text
    assert "120 steps of 16 on at most" in text
    assert "learning rate at each tenth: 2.5e-05 3.0e-04 2.7e-04" in text
    assert (
        "memory: 12.7 MB and activations (weights 3.18 MB, gradients 3.18 MB, Adam's moments 6.36 MB)" in text
    )
    assert re.search("time of the stages that have one: (about|up to)", text)
    assert "forward pass on" in text
    assert not (tmp_path / "x").exists()


def test_what_would_stop_the_run_stops_the_plan(tmp_path):
    assert command("run", "pairs", "--dry-run").exit_code == 2
    recipe = load_recipe("quickstart", {"model": str(tmp_path / "none" / "at" / "all")})
    with pytest.raises(PrefoptError, match="no such directory"):
        plan(recipe, tmp_path / "x")


def test_rounds_are_in_the_plan(tmp_path):
    found = plan(load_recipe("rounds"), tmp_path / "x")
    rounds = {step.place.split(", ")[1] for step in found.steps if step.stage == "train"}
    assert rounds == {"round 1 of 3", "round 2 of 3", "round 3 of 3"}
    assert len({step.folder for step in found.steps}) == len(found.steps)


def test_models_of_the_hub_are_not_fetched_and_tiny_is_not_built(tmp_path, done):
    found = plan(load_recipe(done[1], {"model": "nobody/nothing"}), tmp_path / "x")
    assert "not on this machine" in found.note
    assert found.model is None
    assert "not on this machine" in plan_text(found, "x", tmp_path / "x")
    assert "tiny" in plan(load_recipe(done[1]), tmp_path / "x").note
    assert all(seconds_of(step, None) is None for step in found.steps)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.1, 7])
def test_learning_rates_are_those_of_the_trainer(schedule, warmup):
    """The trainer's scheduler, stepped; the plan shows the first step, those at the tenths, and the last."""
    config = TrainConfig(schedule=schedule, warmup=warmup, learning_rate=2e-5)
    steps = 43
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    kind = {"constant": "constant_with_warmup"}.get(schedule, schedule)
    shares = partial(rate, kind, steps=steps, warm=warm_steps(warmup, steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shares)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    wanted = [rates[min(round(steps * k / 10), steps - 1)] for k in range(11)]
    assert learning_rates(config, steps) == pytest.approx(wanted)


def test_sizes_are_those_of_the_model():
    path = resolve_model(BASE)
    size, model = model_size(path), load_model(path)
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert (size.dtype, size.bytes) == ("float32", 4 * size.parameters)
    lora = LoraSettings(r=4)
    adapted = add_adapter(model, **lora.adapter)
    assert size.adapter(lora) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    whole = training_bytes(size, TrainConfig())
    assert whole == {"weights": size.bytes, "gradients": size.bytes, "Adam's moments": 2 * size.bytes}
    small = training_bytes(size, TrainConfig(lora={"r": 4}))
    assert small["gradients"] == 4 * size.adapter(lora)
    assert sum(small.values()) < sum(whole.values())
    assert training_bytes(size, TrainConfig(precision="bfloat16"))["weights"] == size.bytes // 2


def test_no_weights_and_broken_weights_are_errors(tmp_path):
    with pytest.raises(PrefoptError, match="no safetensors weights"):
        model_size(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing at all")
    with pytest.raises(PrefoptError, match="no safetensors file"):
        model_size(tmp_path)


def test_both_probes_measure(monkeypatch):
    path = resolve_model(BASE)
    size = model_size(path)
    own = measure(path, size, 32, 4)
    assert own.token_s > 0
    assert own.step_s > 0
    monkeypatch.setattr(costs, "PROBED", 1)
    product = measure(path, size, 32, 4)
    assert product.step_s is None
    assert 0 < product.token_s < 1
    assert "lower bound" in product.about
