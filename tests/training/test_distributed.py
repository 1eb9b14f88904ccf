"""Several processes: the same training as one, bitwise resume, FSDP2 that is really there, and strategies that are not.

All runs of two processes are made by one launch of `training_worker.py` (gloo, CPU); the tests read what they left.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import largest_difference, launch
from training_worker import make_examples, make_trainer, run_job, tiny_model
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.training_args import OptimizerNames

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.stages.train.settings import TrainConfig, trainer_settings
from prefopt.training import distributed
from prefopt.training.layers import activation_offload, compile_layers, decoder_layers
from prefopt.training.settings import PreferenceConfig

# two micro-batches a step in each of two processes; several packed rows
PADDED = {"pairs_per_micro_batch": 2}
SHARED = {"shared_prefix": True, "max_tokens_per_row": 40}
COUPLED = {"loss": "bco_pair", **SHARED}
FSDP2 = {"strategy": "fsdp2"}
# named differently in older releases of transformers
_known = {item.name for item in fields(PreferenceConfig)}
RECOMPUTE = {f"{'activation' if 'activation_checkpointing' in _known else 'gradient'}_checkpointing": True}
ONE = {
    "padded": PADDED,
    "shared": SHARED,
    "coupled": COUPLED,
    "best_lora": {**SHARED, "lora": True, "keep": "best", "save_steps": 3, "learning_rate": 5e-2},
}
CUT = 4
# made for the slow tests alone
LATER = ("ddp_shared", "fsdp2_padded", "fsdp2_coupled", "fsdp2_best_lora", "fsdp2_from_one")
ALONE_LATER = ("coupled", "best_lora")


def jobs(folder: Path) -> dict[str, dict]:
    """Runs of two processes; a name with `cut` is stopped, the next one of the same folder resumes it."""

    def job(name, *parts, **more):
        return {k: v for part in ({"folder": str(folder / name)}, *parts, more) for k, v in part.items()}

    return {
        "ddp_padded": job("ddp_padded", PADDED, strategy="ddp"),
        "ddp_padded_cut": job("ddp_padded_again", PADDED, stop=CUT),
        "ddp_padded_again": job("ddp_padded_again", PADDED),
        "ddp_shared": job("ddp_shared", SHARED),
        "fsdp2_padded": job("fsdp2_padded", PADDED, FSDP2, **RECOMPUTE),
        "fsdp2_shared": job("fsdp2_shared", SHARED, FSDP2),
        "fsdp2_shared_cut": job("fsdp2_shared_again", SHARED, FSDP2, stop=CUT),
        "fsdp2_shared_again": job("fsdp2_shared_again", SHARED, FSDP2),
        "fsdp2_coupled": job("fsdp2_coupled", COUPLED, FSDP2),
        "fsdp2_best_lora": job("fsdp2_best_lora", ONE["best_lora"], FSDP2),
        "fsdp2_from_one": job("fsdp2_from_one", SHARED, FSDP2, copy_of=str(folder / "one_cut")),
        "none": job("none", PADDED, strategy="none"),
        "unsharded": job("unsharded", PADDED, FSDP2, unsharded=True),
        "router": job("router", FSDP2, router_loss=0.1),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder that holds every run; made once, also when pytest works in several processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "distributed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for name in ONE.keys() - set(ALONE_LATER):
                assert run_job(str(folder / f"one_{name}"), **ONE[name])["strategy"] == "none"
            make_runs(folder, {name: job for name, job in jobs(folder).items() if name not in LATER})
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def more_runs(runs):
    """The same folder with the further runs of the slow tests."""
    for name in ALONE_LATER:
        assert run_job(str(runs / f"one_{name}"), **ONE[name])["strategy"] == "none"
    run_job(str(runs / "one_cut"), stop=CUT, **SHARED)
    make_runs(runs, {name: job for name, job in jobs(runs).items() if name in LATER})
    return runs


def make_runs(folder: Path, runs: dict[str, dict], **variables: str) -> None:
    """Make runs in two processes."""
    (folder / "jobs.json").write_text(json.dumps(runs))
    done = launch(folder / "jobs.json", processes=2, **variables)
    assert done.returncode == 0, done.stderr[-3000:]


def seen_in(runs, name):
    return json.loads((runs / f"{name}.json").read_text())


def history_of(runs, name):
    return json.loads((runs / name / "history.json").read_text())


def curve(history, column="loss"):
    values = [row[column] for row in history if column in row]
    assert len(values) > 1
    return values


def weights_of(runs, name):
    file = next((runs / name / "model").glob("*model.safetensors"))
    return load_file(file)


# ---- the same training as one process


@pytest.mark.parametrize("rows", ["padded", pytest.param("shared", marks=pytest.mark.slow)])
def test_ddp_has_the_loss_curve_of_one_process(request, rows):
    runs = request.getfixturevalue("more_runs" if f"ddp_{rows}" in LATER else "runs")
    assert seen_in(runs, f"ddp_{rows}")["strategy"] == "ddp"
    one, two = history_of(runs, f"one_{rows}"), history_of(runs, f"ddp_{rows}")
    for column in ("loss", "eval_loss", "grad_norm"):
        assert curve(one, column) == pytest.approx(curve(two, column), rel=1e-6, abs=1e-6)
    assert largest_difference(weights_of(runs, f"one_{rows}"), weights_of(runs, f"ddp_{rows}")) < 1e-5


@pytest.mark.parametrize(
    "rows", ["shared", *(pytest.param(name, marks=pytest.mark.slow) for name in ("padded", *ALONE_LATER))]
)
def test_fsdp2_is_sharded_and_has_the_loss_curve_of_one_process(request, rows):
    runs = request.getfixturevalue("more_runs" if f"fsdp2_{rows}" in LATER else "runs")
    seen = seen_in(runs, f"fsdp2_{rows}")
    assert seen["strategy"] == "fsdp2"
    assert seen["sharded"] == seen["weights"] > 1
    one, two = history_of(runs, f"one_{rows}"), history_of(runs, f"fsdp2_{rows}")
    for column in ("loss", "eval_loss", "grad_norm"):
        assert curve(one, column) == pytest.approx(curve(two, column), rel=1e-5, abs=1e-5)
    assert largest_difference(weights_of(runs, f"one_{rows}"), weights_of(runs, f"fsdp2_{rows}")) < 1e-4


def test_fsdp2_saves_an_ordinary_model(runs):
    model = AutoModelForCausalLM.from_pretrained(runs / "fsdp2_shared" / "model", use_safetensors=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    stored = weights_of(runs, "fsdp2_shared")
    assert sorted(stored) == sorted(weights_of(runs, "one_shared"))  # tied weights once
    state = model.state_dict()
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    assert any(not torch.equal(tiny_model().state_dict()[name], stored[name]) for name in stored)


# ---- resume


@pytest.mark.parametrize("name", ["ddp_padded", "fsdp2_shared"])
def test_two_processes_resume_bitwise(runs, name):
    assert seen_in(runs, f"{name}_cut") == {}  # it was stopped
    assert largest_difference(weights_of(runs, name), weights_of(runs, f"{name}_again")) == 0.0
    assert history_of(runs, name) == history_of(runs, f"{name}_again")


@pytest.mark.slow
def test_fsdp2_resumes_a_run_of_one_process(more_runs):
    """Checkpoints hold whole tensors, so the number of processes may change; equal to rounding."""
    runs = more_runs
    assert not (runs / "one_cut" / "model").exists()
    assert largest_difference(weights_of(runs, "one_shared"), weights_of(runs, "fsdp2_from_one")) < 1e-5
    one, two = history_of(runs, "one_shared"), history_of(runs, "fsdp2_from_one")
    assert curve(one) == pytest.approx(curve(two), rel=1e-5)


def test_one_process_resumes_a_run_of_fsdp2(runs, tmp_path):
    source = runs / "fsdp2_shared"
    assert (source / "checkpoint-4" / "COMPLETE").exists()
    assert run_job(str(tmp_path / "one"), copy_of=str(source), **SHARED)["strategy"] == "none"
    assert largest_difference(weights_of(runs, "one_shared"), weights_of(tmp_path, "one")) < 1e-5


# ---- requested, but not applied


def test_a_strategy_that_was_not_applied_is_an_error(runs):
    assert "fsdp2 was asked for, but the model runs as ddp" in seen_in(runs, "unsharded")["error"]
    assert "none, but there are 2 processes" in seen_in(runs, "none")["error"]
    assert "router_loss: not possible on a sharded model" in seen_in(runs, "router")["error"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_process_is_no_strategy_of_several(tmp_path, strategy):
    with pytest.raises(PrefoptError, match=f"{strategy} needs several processes.*torchrun"):
        PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, strategy=strategy)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "deepspeed"])
def test_a_plain_model_is_not_taken_for_a_strategy(strategy):
    distributed.check_applied("none", tiny_model())
    with pytest.raises(PrefoptError, match=f"{strategy} was asked for, but the model runs as none"):
        distributed.check_applied(strategy, tiny_model())


def test_a_launcher_that_asks_for_fsdp_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(PrefoptError, match=r"without --use_fsdp and set train.strategy: fsdp2"):
        PreferenceConfig(output_dir=str(tmp_path), use_cpu=True)


def settings(tmp_path, **more):
    return trainer_settings(TrainConfig(**more), tmp_path, 0, False)


def test_deepspeed_that_cannot_be_had_is_one_clear_line(tmp_path, monkeypatch):
    file = tmp_path / "zero.json"
    with pytest.raises(PrefoptError, match="no such file"):
        settings(tmp_path, deepspeed=file)
    file.write_text("{}")
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(PrefoptError, match="DeepSpeed is not installed; pip install deepspeed"):
        settings(tmp_path, deepspeed=file)
    with pytest.raises(PrefoptError, match=r"set train.deepspeed: FILE.json"):
        settings(tmp_path, strategy="deepspeed")
    with pytest.raises(PrefoptError, match="remove one of the two"):
        settings(tmp_path, strategy="ddp", deepspeed=file)
    with pytest.raises(PrefoptError, match="'zero'; it is none, ddp"):
        PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, strategy="zero")


@pytest.mark.slow
def test_zero_trains_like_one_process_and_resumes_bitwise(tmp_path):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    sizes = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_clipping"), "auto")
    zero = {"stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
    runs = {}
    for stage in (2, 3):
        file = tmp_path / f"stage{stage}.json"
        free = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
        file.write_text(json.dumps({**sizes, **free, "zero_optimization": {"stage": stage, **zero}}))
        runs[f"zero{stage}"] = {"deepspeed": str(file), **PADDED}
    again = {"folder": str(tmp_path / "again"), **runs["zero2"]}
    shared = {**runs["zero3"], **SHARED, "pairs_per_micro_batch": None}
    runs = {name: {"folder": str(tmp_path / name), **run} for name, run in runs.items()}
    runs |= {
        "cut": {**again, "stop": CUT},
        "again": again,
        "shared": {"folder": str(tmp_path / "shared"), **shared},
    }
    make_runs(tmp_path, runs, DS_ACCELERATOR="cpu")
    run_job(str(tmp_path / "one"), **PADDED)
    for name in ("zero2", "zero3"):
        assert seen_in(tmp_path, name)["strategy"] == "deepspeed"
        one, two = history_of(tmp_path, "one"), history_of(tmp_path, name)
        for column in ("loss", "eval_loss", "grad_norm"):
            assert curve(one, column) == pytest.approx(curve(two, column), rel=1e-5, abs=1e-5)
        assert largest_difference(weights_of(tmp_path, "one"), weights_of(tmp_path, name)) < 1e-5
    assert largest_difference(weights_of(tmp_path, "zero2"), weights_of(tmp_path, "again")) == 0.0
    assert "not possible with DeepSpeed's ZeRO-3" in seen_in(tmp_path, "shared")["error"]


def test_sharded_models_that_cannot_share_are_told_so(monkeypatch):
    from prefopt.scoring.shared import Sharing
    from prefopt.training import rows

    monkeypatch.setattr(
        rows, "check_sharing", lambda model, trial, workspace: Sharing(None, "it is recurrent")
    )
    tokens_of = rows.SharedTokens(make_examples(2), 40, lockstep=True)
    with pytest.raises(PrefoptError, match="set shared_prefix to false"):
        tokens_of(tiny_model(), [])


def test_an_adapter_that_cannot_be_merged_is_told_before_training(tmp_path, monkeypatch):
    from prefopt.training import settings as module

    monkeypatch.setattr(module, "choose_strategy", lambda *args: "fsdp2")
    with pytest.raises(PrefoptError, match=r"lora.merge: not possible with fsdp2"):
        settings(tmp_path, lora={})
    assert settings(tmp_path, lora={"merge": False}).chosen_strategy == "fsdp2"


# ---- optimizers


def test_bitsandbytes_that_is_missing_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrefoptError, match=r"adamw_bnb_8bit is of bitsandbytes.*pip install bitsandbytes"):
        settings(tmp_path, optimizer="adamw_bnb_8bit")
    with pytest.raises(PrefoptError, match="adamw_8bit does not take sharded weights"):
        distributed.check_optimizer("adamw_8bit")


def test_optimizers_of_bitsandbytes_are_known():
    from transformers.trainer_optimizer import _BITSANDBYTES_OPTIMIZERS

    names = {str(name.value) for name in _BITSANDBYTES_OPTIMIZERS}
    assert {name.value for name in OptimizerNames if distributed.is_bitsandbytes(name.value)} == names


def test_an_optimizer_whose_package_is_missing_is_one_clear_line(tmp_path):
    if importlib.util.find_spec("galore_torch"):
        pytest.skip("it is installed")
    model = tiny_model()
    trainer = make_trainer(
        tmp_path, build_loss("dpo"), make_examples(4, 0, model), model=model, optim="grokadamw", max_steps=1
    )
    with pytest.raises(PrefoptError, match="grokadamw: Please install"):
        trainer.train()


def test_another_optimizer_trains(tmp_path):
    assert settings(tmp_path, optimizer="adafactor").optim == "adafactor"
    model = tiny_model()
    before = model.state_dict()["lm_head.weight"].clone()
    rows = make_examples(4, 0, model)
    trainer = make_trainer(tmp_path, build_loss("dpo"), rows, model=model, optim="adafactor", max_steps=2)
    trainer.train()
    assert not torch.equal(before, trainer.model.state_dict()["lm_head.weight"])


# ---- memory and compilation


def gradients(folder, model=None, around=nullcontext, **more):
    """Gradients of one step on shared rows, and how often the first layer ran."""
    model = model or tiny_model()
    caught, calls = {}, []

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

    rows = make_examples(8, 0, tiny_model())
    trainer = make_trainer(
        folder, build_loss("dpo"), rows, model=model, callbacks=[Catch()], max_steps=1, max_grad_norm=0.0,
        shared_prefix=True, **more,
    )  # fmt: skip
    decoder_layers(model)[0].self_attn.q_proj.register_forward_hook(lambda *args: calls.append(1))
    with around():
        trainer.train()
    return caught, len(calls)


def test_gradient_checkpointing_works_on_packed_rows(tmp_path):
    plain, calls = gradients(tmp_path)
    recomputed, more_calls = gradients(tmp_path, **RECOMPUTE)
    assert more_calls == calls + 1  # once more for the one row of the step
    assert largest_difference(plain, recomputed) < 1e-7


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_offload_changes_no_bit(tmp_path, monkeypatch, checkpointing):
    from prefopt.training import layers, trainer

    moved = []
    pack = layers._pack(from_cpu=True)

    def counted(tensor):
        packed = pack(tensor)
        if isinstance(packed, tuple):
            moved.append(tensor)
        return packed

    def offload():
        return layers.saved_tensors_hooks(counted, layers._unpack)

    more = RECOMPUTE if checkpointing else {}
    plain, _ = gradients(tmp_path, **more)
    on_cpu, _ = gradients(tmp_path, activation_offload=True, **more)
    monkeypatch.setattr(trainer, "activation_offload", offload)
    copied, _ = gradients(tmp_path, activation_offload=True, **more)
    assert largest_difference(plain, on_cpu) == largest_difference(plain, copied) == 0.0
    assert len(moved) >= (2 if checkpointing else 10)
    assert not any(isinstance(tensor, torch.nn.Parameter) for tensor in moved)


def test_activation_offload_leaves_weights_and_small_tensors():
    generator = torch.Generator().manual_seed(0)
    x, weight, small = (torch.randn(*shape, generator=generator) for shape in ((64, 64), (64, 64), (3,)))
    weight = torch.nn.Parameter(weight)
    found = []
    for around in (nullcontext(), activation_offload(from_cpu=True)):
        x, small = (value.detach().requires_grad_() for value in (x, small))
        with around:
            hidden, few = torch.tanh(x * 2), small.exp()
            result = (hidden @ weight.T).sum() + few.sum()
        kept = [
            node._saved_result.data_ptr() == value.data_ptr()
            for node, value in ((hidden.grad_fn, hidden), (few.grad_fn, few))
        ]
        product = hidden @ weight.T
        assert kept == [not found, True]
        assert product.grad_fn._saved_mat2.data_ptr() == weight.data_ptr()
        result.backward()
        found.append(torch.cat([x.grad.flatten(), small.grad]))
    assert torch.equal(*found)


def test_every_layer_is_compiled_and_names_stay(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: asked.append((self, how)))
    model = tiny_model()
    names = list(model.state_dict())
    more = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer = make_trainer(tmp_path, build_loss("orpo"), make_examples(4), model=model, **more)
    assert [layer for layer, _ in asked] == decoder_layers(model) == list(model.model.layers)
    assert all(how == {"backend": "aot_eager", "dynamic": True} for _, how in asked)
    assert list(trainer.model.state_dict()) == names


def test_compiling_without_a_compiler_is_one_clear_line(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(PrefoptError, match=r"no C\+\+ compiler"):
        compile_layers(tiny_model(), "inductor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile looks at gradients of tensors that have none
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_layers_give_the_same_gradients(tmp_path, backend, checkpointing):
    plain, _ = gradients(tmp_path)
    model = tiny_model()
    more = {"torch_compile": True, "torch_compile_backend": backend, **(RECOMPUTE if checkpointing else {})}
    compiled, _ = gradients(tmp_path, model, **more)
    assert all(layer._compiled_call_impl is not None for layer in decoder_layers(model))
    assert sorted(plain) == sorted(compiled)
    assert largest_difference(plain, compiled) < 1e-6


def test_settings_reach_the_trainer(tmp_path):
    found = settings(tmp_path, activation_offload=True, torch_compile=True, strategy="none")
    assert (found.activation_offload, found.compile_backend, found.strategy) == (True, "inductor", "none")
    assert "ACCELERATE_DYNAMO_BACKEND" not in os.environ  # the Trainer's own way to compile
    default = settings(tmp_path)
    assert (default.activation_offload, default.compile_backend) == (False, None)
    assert default.chosen_strategy == "none"
