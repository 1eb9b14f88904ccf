"""A reference that follows the model (TR-DPO, 2404.09656): never, at once, by a share, and across an interruption."""

from __future__ import annotations

import json

import pytest
import torch
from training_runs import largest_difference, read_result, run_worker, weights_of
from training_worker import Stop, StopAt, make_examples, make_trainer, tiny_model
from transformers import TrainerCallback

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.models.lora import add_adapter
from prefopt.training.metrics import history_rows

PACKED = {"shared_prefix": True, "max_tokens_per_row": 60}


@pytest.fixture(scope="module")
def rows():
    return make_examples(16, 0, tiny_model())


def build(folder, rows, sync, *, model=None, callbacks=None, **settings):
    fixed = {"max_steps": 5, "logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    return make_trainer(
        folder, build_loss("dpo"), rows, model=model, callbacks=callbacks, sync_reference=sync, **{**fixed, **settings}
    )  # fmt: skip


def lines(trainer):
    return [row for row in history_rows(trainer.state.log_history) if row["step"] > 0]


@pytest.mark.parametrize("more", [{}, PACKED], ids=["padded", "packed"])
def test_a_reference_that_never_moves_is_the_fixed_reference(tmp_path, rows, more):
    fixed = build(tmp_path, rows, None, **more)
    still = build(tmp_path, rows, {"alpha": 0.0, "every_steps": 1}, **more)
    start = weights_of(fixed)
    fixed.train()
    still.train()
    assert largest_difference(weights_of(fixed), start) > 1e-2
    assert largest_difference(weights_of(fixed), weights_of(still)) < 1e-5
    copies = dict(zip(still.live.names, still.live.copies, strict=True))
    assert all(torch.equal(copy, start[name]) for name, copy in copies.items())
    assert lines(fixed)[-1] == pytest.approx(lines(still)[-1], abs=1e-3, rel=1e-3)


def test_rewards_are_zero_right_after_a_hard_update(tmp_path, rows):
    trainer = build(tmp_path, rows, {"alpha": 1.0, "every_steps": 3}, **PACKED)
    trainer.train()
    # the figures of a line are those of the batch before its update
    rewards = [abs(line["rewards/chosen"]) + abs(line["rewards/rejected"]) for line in lines(trainer)]
    assert rewards[0] == 0.0
    assert rewards[3] == 0.0
    assert min(rewards[1], rewards[2], rewards[4]) > 1e-3


def test_a_soft_update_is_the_weighted_mean(tmp_path, rows):
    trainer = build(tmp_path, rows, {"alpha": 0.25, "every_steps": 1}, max_steps=2)
    seen = [weights_of(trainer)]

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen.append({name: value.detach().clone() for name, value in model.state_dict().items()})

    trainer.add_callback(Watch())
    trainer.train()
    for name, copy in zip(trainer.live.names, trainer.live.copies, strict=True):
        once = 0.75 * seen[0][name] + 0.25 * seen[1][name]
        assert torch.allclose(copy, 0.75 * once + 0.25 * seen[2][name], atol=1e-6)


@pytest.mark.parametrize("has_adapter", [False, True], ids=["all weights", "adapter"])
def test_resume_is_bitwise_and_the_moved_reference_is_in_the_checkpoint(tmp_path, rows, has_adapter):
    sync = {"alpha": 1.0 if has_adapter else 0.3, "every_steps": 3}
    saving = {"max_steps": 7, "save_strategy": "steps", "save_steps": 2, **PACKED}

    def one(folder, callbacks=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = tiny_model()
            if has_adapter:
                model = add_adapter(model, r=2, alpha=4.0, dropout=0.1, target_modules=["q_proj", "v_proj"])
        return build(folder, rows, sync, model=model, callbacks=callbacks, **saving)

    whole = one(tmp_path / "whole")
    whole.train(resume_from_checkpoint=True)
    with pytest.raises(Stop):
        one(tmp_path / "cut", [StopAt(5)]).train(resume_from_checkpoint=True)
    assert (tmp_path / "cut" / "checkpoint-4" / "reference.safetensors").is_file()
    resumed = one(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    pairs = zip(whole.live.copies, resumed.live.copies, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert json.dumps(lines(whole)) == json.dumps(lines(resumed))


def test_a_checkpoint_without_a_moved_reference_is_refused(tmp_path, rows):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    build(tmp_path, rows, None, **saving).train()
    with pytest.raises(PrefoptError, match="made without sync_reference"):
        build(tmp_path, rows, {"alpha": 0.5, "every_steps": 1}, **saving).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("sync", "loss", "message"),
    [
        ({"alpha": 2.0, "every_steps": 1}, "dpo", "alpha is from 0 to 1"),
        ({"alpha": 1.0, "every_steps": 0}, "dpo", "at least 1"),
        ({"alpha": 1.0, "every_steps": 1}, "simpo", "reads no reference"),
    ],
)
def test_bad_settings_are_errors(tmp_path, rows, sync, loss, message):
    with pytest.raises(PrefoptError, match=message):
        make_trainer(tmp_path, build_loss(loss), rows, sync_reference=sync)


@pytest.mark.slow
def test_two_processes_follow_like_one_and_resume_bitwise(tmp_path):
    for name, processes, stop in (("one", 1, 0), ("two", 2, 0), ("cut", 2, 5), ("cut", 2, 0)):
        done = run_worker(
            tmp_path / name,
            processes=processes,
            stop=stop,
            **PACKED,
            sync_reference={"alpha": 0.5, "every_steps": 2},
        )
        assert (done.returncode != 0) == bool(stop), done.stderr[-3000:]
    results = [read_result(tmp_path / name) for name in ("one", "two", "cut")]
    (one, one_history), (two, two_history), (cut, cut_history) = results
    assert largest_difference(one, two) < 1e-5
    for first, second in zip(one_history, two_history, strict=True):
        assert first == pytest.approx(second, abs=1e-3, rel=1e-3)
    assert largest_difference(two, cut) == 0.0
    assert two_history == cut_history
