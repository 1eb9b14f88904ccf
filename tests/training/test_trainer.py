"""The trainer's promises: exact means, exact resume, honest warnings. Models of two layers and width 32."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import DPO, largest_difference, read_result, run_worker, trained, weights_of
from training_worker import Stop, StopAt, make_examples, make_trainer, tiny_model, with_reference
from transformers import TrainerCallback

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.scoring.logprobs import completion_logps, score_cuts
from prefopt.training import checkpoints
from prefopt.training.collate import StepSampler, cut_share
from prefopt.training.examples import add_mismatched, unpair
from prefopt.training.metrics import history_rows


def trained_weights(folder, loss, examples, **settings):
    return weights_of(trained(folder, loss, examples, **settings))


def gradients_of_one_step(folder, loss, examples, **settings):
    """Gradients that reach the optimizer in the first step, unclipped."""
    found = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found.update({name: p.grad.clone() for name, p in model.named_parameters()})

    settings = {"max_steps": 1, "max_grad_norm": 0.0, "pairs_per_step": len(examples), **settings}
    trainer = make_trainer(folder, build_loss(loss), examples, callbacks=[Catch()], **settings)
    trainer.train()
    return found


# ---- the mean over the global batch


@pytest.mark.parametrize("loss", [DPO, "simpo", "nll", "bco_pair", "aot"], ids=str)
def test_accumulation_equals_one_big_batch(tmp_path, rows, loss):
    big = trained_weights(tmp_path, loss, rows, pairs_per_micro_batch=8, max_steps=4)
    small = trained_weights(
        tmp_path, loss, rows, pairs_per_micro_batch=1, max_steps=4
    )  # the 3rd step has 4 rows only
    assert largest_difference(big, weights_of(make_trainer(tmp_path, build_loss(loss), rows))) > 1e-3
    assert largest_difference(big, small) < 1e-5


@pytest.mark.parametrize("loss", [DPO, "bco_pair"], ids=str)
def test_gradient_is_the_weighted_mean_computed_by_hand(tmp_path, rows, loss):
    chosen_weights = [0.0, 0.5, 2.0, 1.0, 3.0]
    examples = [replace(row, weight=w) for row, w in zip(rows, chosen_weights, strict=False)]
    found = gradients_of_one_step(tmp_path, loss, examples, pairs_per_micro_batch=1)

    model = tiny_model()
    logps = {
        role: completion_logps(model, [(e.prompt, e.answers[role]) for e in examples])
        for role in ("chosen", "rejected")
    }
    reference = {f"ref_{role}": torch.tensor([e.reference[role] for e in examples]) for role in logps}
    tokens = {
        f"{role}_tokens": torch.tensor([float(len(e.answers[role])) for e in examples]) for role in logps
    }
    losses = build_loss(loss)(logps | reference | tokens)
    (torch.tensor(chosen_weights) * losses).sum().div(len(examples)).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert largest_difference(found, expected) < 1e-6
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3


def test_rows_of_weight_zero_leave_no_trace_but_their_place_in_the_mean(tmp_path, rows):
    with_zero = [replace(row, weight=float(k % 2)) for k, row in enumerate(rows[:8])]
    others = make_examples(8, 99, tiny_model())
    swapped = [
        row if row.weight else replace(other, weight=0.0)
        for row, other in zip(with_zero, others, strict=True)
    ]
    first = gradients_of_one_step(tmp_path, DPO, with_zero, pairs_per_micro_batch=1)
    second = gradients_of_one_step(tmp_path, DPO, swapped, pairs_per_micro_batch=1)
    absent = gradients_of_one_step(
        tmp_path, DPO, [row for row in with_zero if row.weight], pairs_per_micro_batch=1
    )
    assert largest_difference(first, second) < 1e-7
    assert largest_difference({name: 2 * g for name, g in first.items()}, absent) < 1e-6


def test_weights_of_one_are_bitwise_no_weights(tmp_path, rows):
    plain = trained_weights(tmp_path, DPO, rows)
    ones = trained_weights(tmp_path, DPO, [replace(row, weight=1.0) for row in rows])
    doubled = trained_weights(
        tmp_path, DPO, [replace(row, weight=1.0 + (k == 0)) for k, row in enumerate(rows)]
    )
    assert largest_difference(plain, ones) == 0.0
    assert largest_difference(plain, doubled) > 0.0


def test_same_seed_same_bytes_other_seed_other_order(tmp_path, rows):
    first, again = (trained_weights(tmp_path, DPO, rows, seed=3) for _ in range(2))
    assert largest_difference(first, again) == 0.0
    assert largest_difference(first, trained_weights(tmp_path, DPO, rows, seed=4)) > 0.0


# ---- steps and shares


def test_every_row_once_per_epoch_and_a_new_order_each():
    sampler = StepSampler(rows=11, rows_per_step=4, seed=7)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        steps = list(sampler)
        assert [len(step) for step in steps] == [4, 4, 3]
        assert len(sampler) == 3
        orders.append([index for step in steps for index in step])
        assert sorted(orders[-1]) == list(range(11))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("count", "processes", "micro"), [(8, 2, 2), (5, 2, 2), (1, 3, 4), (7, 4, 1)])
def test_shares_cover_a_step_once_with_equal_places(count, processes, micro):
    examples = make_examples(count, 3)
    shares = [cut_share(examples, processes=processes, rank=r, micro_batch=micro) for r in range(processes)]
    valid = [
        slot.position for share in shares for batch in share.micro_batches for slot in batch if slot.valid
    ]
    assert sorted(valid) == list(range(count))
    assert len({tuple(len(batch) for batch in share.micro_batches) for share in shares}) == 1
    assert {share.rows for share in shares} == {count}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs_per_step": 8, "pairs_per_micro_batch": 3}, "does not divide the 8 pairs"),
        ({"pairs_per_step": 4, "pairs_per_micro_batch": 8}, "does not divide the 4 pairs"),
        ({"gradient_accumulation_steps": 2}, "pairs_per_step"),
        ({"keep": "first"}, "'last' or 'best'"),
        ({"keep": "best", "save_strategy": "no"}, "needs checkpoints"),
    ],
)
def test_settings_that_contradict_are_errors(tmp_path, rows, settings, message):
    with pytest.raises(PrefoptError, match=message):
        make_trainer(tmp_path, build_loss("dpo"), rows, **settings)


# ---- what the loss needs


def test_a_missing_reference_names_the_command(tmp_path):
    with pytest.raises(PrefoptError, match=r"r0.*ref_chosen_logps.*prefopt reference"):
        make_trainer(tmp_path, build_loss("dpo"), make_examples(4))


def test_a_loss_without_reference_trains_without_one(tmp_path):
    trainer = make_trainer(tmp_path, build_loss("simpo"), make_examples(8), max_steps=2, logging_steps=1)
    trainer.train()
    history = history_rows(trainer.state.log_history)
    assert [row["step"] for row in history] == [1, 2]  # no check of step 0 without a reference
    assert history[0]["rewards/chosen"] == pytest.approx(
        trainer.preference_loss.beta * history[0]["logps/chosen"]
    )
    assert "logps/chosen_drift" not in history[0]


def test_weights_are_refused_by_a_loss_that_sorts(tmp_path, rows):
    with pytest.raises(PrefoptError, match="sorts its rows"):
        make_trainer(tmp_path, build_loss("aot"), [replace(row, weight=2.0) for row in rows])


LD = {"name": "dpo", "ld_alpha": 0.3}


@pytest.fixture(scope="module")
def prefix_rows(rows):
    """Rows with reference sums of the shared prefix, as `prefopt reference --prefix_logps true` gives them."""
    found = []
    for row in rows:
        pairs = [(row.prompt, row.answers[role]) for role in ("chosen", "rejected")]
        cut = score_cuts(tiny_model(), pairs, [(row.shared_tokens,)] * 2, 512)
        reference = {**row.reference, "chosen_prefix": cut[0][0], "rejected_prefix": cut[1][0]}
        found.append(replace(row, reference=reference))
    return found


def test_ld_alpha_wants_the_reference_of_prefixes(tmp_path, rows):
    with pytest.raises(PrefoptError, match=r"r0.*ref_chosen_prefix_logps.*prefopt reference --prefix_logps"):
        make_trainer(tmp_path, build_loss(LD), rows)
    make_trainer(tmp_path, build_loss({"name": "simpo", "ld_alpha": 0.3}), rows)  # takes no reference


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "bco_pair", "ld_alpha": 0.3, "wpo": True},
        *(pytest.param(loss, marks=pytest.mark.slow) for loss in (LD, {"name": "ipo", "wpo": True})),
    ],
    ids=str,
)
def test_prefixes_and_sequence_weights_do_not_depend_on_micro_batches(tmp_path, prefix_rows, loss):
    big = trained_weights(tmp_path, loss, prefix_rows, pairs_per_micro_batch=8)
    small = trained_weights(tmp_path, loss, prefix_rows, pairs_per_micro_batch=1)
    plain = trained_weights(tmp_path, {"name": loss["name"]}, prefix_rows, pairs_per_micro_batch=8)
    assert largest_difference(big, small) < 1e-5
    assert largest_difference(big, plain) > 1e-5


@pytest.mark.parametrize("name", ["dpo", "bco_pair"])
def test_prefix_and_weight_by_hand(tmp_path, prefix_rows, name):
    """Gradient of the step from per-token log-probs of plain forward passes."""
    loss, examples = {"name": name, "ld_alpha": 0.3, "wpo": True}, prefix_rows[:5]
    found = gradients_of_one_step(tmp_path, loss, examples, pairs_per_micro_batch=1)
    model, inputs = tiny_model(), {}
    for role in ("chosen", "rejected"):
        for row in examples:
            ids = torch.tensor([[*row.prompt.tolist(), *row.answers[role].tolist()]])
            start, cut = len(row.prompt), row.shared_tokens
            every = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            logps = every.gather(1, ids[0, start:, None])[:, 0]
            weight = (logps - every.exp().square().sum(-1).log()).mean().exp().detach()
            for key, value in (("", logps.sum()), ("_prefix", logps[:cut].sum()), ("_weight", weight)):
                inputs.setdefault(f"{role}{key}", []).append(value)
            for key in ("", "_prefix"):
                reference = torch.tensor(row.reference[f"{role}{key}"])
                inputs.setdefault(f"ref_{role}{key}", []).append(reference)
    data = {key: torch.stack(values) for key, values in inputs.items()}
    data["wpo_weight"] = data["chosen_weight"] * data["rejected_weight"]
    build_loss(loss)(data).mean().backward()
    assert largest_difference(found, {key: p.grad for key, p in model.named_parameters()}) < 1e-5
    assert float(data["wpo_weight"].std()) > 0.01


def test_step_zero_of_a_length_split_is_ln_2(tmp_path, prefix_rows):
    first = step_zero(make_trainer(tmp_path, build_loss(LD), prefix_rows, max_steps=1))
    assert first["step0/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["step0/loss_expected"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["step0/passed"] == 1.0


def test_both_answers_of_a_pair_keep_its_mismatched_completion(rows):
    pairs = [
        replace(r, answers={**r.answers, "kl": r.prompt}, reference={**r.reference, "kl": -3.0}) for r in rows
    ]
    singles = unpair(pairs)
    assert all(s.reference["kl"] == -3.0 for s in singles)
    assert all(s.answers["kl"] is p.prompt for p, s in zip(pairs, singles[::2], strict=True))


@pytest.mark.parametrize(
    "loss", ["kto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bco", "apo_zero_unpaired"))]
)
def test_unpaired_losses_train_on_single_answers(tmp_path, rows, loss):
    singles = with_reference(add_mismatched(unpair(rows[:8]), seed=0, max_length=64), tiny_model())
    assert sum(single.label for single in singles) == 8
    one = trained_weights(tmp_path, loss, singles, pairs_per_micro_batch=4)
    other = trained_weights(tmp_path, loss, singles, pairs_per_micro_batch=1)
    assert largest_difference(one, other) < 1e-5
    assert largest_difference(one, tiny_model().state_dict()) > 1e-3


def test_every_mismatched_completion_is_another_rows_and_used_once(rows):
    singles = add_mismatched(unpair(rows[:5]), seed=1, max_length=64)
    given = sorted(tuple(single.answers["kl"].tolist()) for single in singles)
    assert given == sorted(tuple(single.answers["completion"].tolist()) for single in singles)
    assert all(not np.array_equal(single.answers["kl"], single.answers["completion"]) for single in singles)


# ---- checks and warnings


def step_zero(trainer):
    trainer.train()
    return history_rows(trainer.state.log_history)[0]


def test_step_zero_is_ln_2_and_silent_with_the_right_reference(tmp_path, rows, caplog):
    first = step_zero(make_trainer(tmp_path, build_loss("dpo"), rows, max_steps=1))
    assert first["step"] == 0
    assert first["step0/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["step0/loss_expected"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["step0/reward_max"] < 1e-5
    assert first["step0/passed"] == 1.0
    assert caplog.records == []


def test_step_zero_warns_with_the_number_for_a_wrong_reference(tmp_path, caplog):
    examples = make_examples(8, 0, tiny_model(seed=5))
    with caplog.at_level(logging.WARNING, "prefopt.train"):
        first = step_zero(make_trainer(tmp_path, build_loss("dpo"), examples, max_steps=1))
    assert first["step0/passed"] == 0.0
    assert f"{first['step0/reward_max']:.3g}" in caplog.text
    assert "prefopt reference" in caplog.text


def test_step_zero_allows_a_hundredth_of_a_nat_per_token_in_bf16(tmp_path):
    model = tiny_model(dtype=torch.bfloat16, spread=0.02)
    good = make_examples(8, 0, model)
    first = step_zero(make_trainer(tmp_path, build_loss("dpo"), good, model=model, max_steps=1))
    assert first["step0/passed"] == 1.0
    off = [
        replace(e, reference={r: v + 2e-2 * len(e.answers[r]) for r, v in e.reference.items()}) for e in good
    ]
    fresh = tiny_model(dtype=torch.bfloat16, spread=0.02)
    assert (
        step_zero(make_trainer(tmp_path, build_loss("dpo"), off, model=fresh, max_steps=1))["step0/passed"]
        == 0.0
    )


def test_a_nan_loss_stops_the_run_and_names_step_and_row(tmp_path, rows):
    examples = [replace(rows[0], weight=math.nan), *rows[1:8]]
    trainer = make_trainer(tmp_path, build_loss("dpo"), examples, max_steps=3)
    with pytest.raises(PrefoptError, match=r"NaN or infinite at step 1 \(rows: r0\).*learning rate"):
        trainer.train()


def test_exploding_weights_stop_the_run_before_they_are_saved(tmp_path, rows):
    trainer = make_trainer(
        tmp_path, build_loss("ipo"), rows, max_steps=30, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0
    )
    with pytest.raises(PrefoptError, match="NaN or infinite at step"):
        trainer.train()


def test_a_fall_of_the_chosen_log_prob_is_told_once(tmp_path, rows, caplog):
    loss = build_loss([{"name": "dpo", "beta": 0.5}])
    flipped = [
        replace(
            row,
            answers={"chosen": row.answers["rejected"][:3], "rejected": row.answers["rejected"]},
            reference={},
        )
        for row in rows[:8]
    ]
    flipped = with_reference(flipped, tiny_model())
    with caplog.at_level(logging.WARNING, "prefopt.train"):
        trainer = make_trainer(tmp_path, loss, flipped, max_steps=20, logging_steps=1, learning_rate=3e-2)
        trainer.train()
    last = history_rows(trainer.state.log_history)[-1]
    assert last["logps/chosen_drift"] < 0.2 * (last["logps/chosen"] - last["logps/chosen_drift"])
    assert [record.message.count("has fallen by") for record in caplog.records] == [1]


# ---- evaluation, best weights, early stopping


class FakeScores(TrainerCallback):
    """Replaces the held-out loss by given numbers."""

    def __init__(self, scores):
        self.scores = list(scores)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_loss"] = self.scores[state.global_step // 2 - 1]


def test_best_weights_are_those_of_the_best_evaluation(tmp_path, rows):
    seen = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            seen[state.global_step] = {n: v.detach().clone() for n, v in model.state_dict().items()}

    trainer = make_trainer(
        tmp_path, build_loss("dpo"), rows, rows[:4], callbacks=[FakeScores([0.9, 0.2, 0.5, 0.7]), Watch()],
        keep="best", eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=3, max_steps=8,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_global_step == 4
    assert largest_difference(weights_of(trainer), seen[4]) == 0.0
    assert largest_difference(weights_of(trainer), seen[8]) > 0.0


def test_early_stopping_counts_evaluations_without_a_new_best(tmp_path, rows):
    trainer = make_trainer(
        tmp_path, build_loss("dpo"), rows, rows[:4], callbacks=[FakeScores([0.5, 0.4, 0.6, 0.7, 0.1])],
        early_stopping_patience=2, eval_strategy="steps", eval_steps=2, max_steps=20, save_strategy="steps",
    )  # fmt: skip
    trainer.train()
    history = history_rows(trainer.state.log_history)
    assert trainer.state.global_step == 8
    assert history[-1]["step"] == 8
    assert "loss" in history[-1]
    assert "eval_loss" in history[-1]


def test_held_out_rows_are_evaluated_on_time_and_at_the_end(tmp_path, rows):
    held_out = [*make_examples(5, 1, tiny_model())]
    trainer = make_trainer(
        tmp_path,
        build_loss("nll"),
        rows,
        held_out,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=3,
        logging_steps=10,
    )
    trainer.train()
    history = {row["step"]: row for row in history_rows(trainer.state.log_history)}
    assert [step for step, row in history.items() if "eval_loss" in row] == [2, 3]
    # nll reads no rejected answer, so training skips it; held-out rows show it all the same
    assert "rewards/accuracies" not in history[3]
    assert "eval_rewards/accuracies" in history[3]
    model = trainer.model.eval()
    logps = completion_logps(model, [(e.prompt, e.answers["chosen"]) for e in held_out]).detach()
    means = logps / torch.tensor([float(len(e.answers["chosen"])) for e in held_out])
    assert history[3]["eval_loss"] == pytest.approx(-float(means.mean()), abs=1e-5)
    assert not any(name.endswith(("runtime", "per_second")) for row in history.values() for name in row)


def test_logged_loss_is_the_mean_over_all_rows_since_the_last_line(tmp_path, rows):
    one = make_trainer(tmp_path, build_loss("dpo"), rows, max_steps=3, logging_steps=1)
    one.train()
    three = make_trainer(tmp_path, build_loss("dpo"), rows, max_steps=3, logging_steps=3)
    three.train()
    losses = [row["loss"] for row in history_rows(one.state.log_history) if "loss" in row]
    (whole,) = [row["loss"] for row in history_rows(three.state.log_history) if "loss" in row]
    assert whole == pytest.approx((8 * losses[0] + 8 * losses[1] + 4 * losses[2]) / 20)


# ---- resume


RESUME = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "eval_strategy": "steps",
          "eval_steps": 2, "pairs_per_micro_batch": 4}  # fmt: skip


@pytest.mark.parametrize("stop", [4, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings", [{}, {"keep": "best", "early_stopping_patience": 3}], ids=["last", "best"]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, rows, stop, settings):
    held_out = make_examples(5, 1, tiny_model())

    def build(folder, **more):
        return make_trainer(folder, build_loss(DPO), rows, held_out, **RESUME, **settings, **more)

    whole = build(tmp_path / "whole")
    whole.train(resume_from_checkpoint=True)
    with pytest.raises(Stop):
        build(tmp_path / "cut", callbacks=[StopAt(stop)]).train(resume_from_checkpoint=True)
    resumed = build(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    assert json.dumps(history_rows(whole.state.log_history)) == json.dumps(
        history_rows(resumed.state.log_history)
    )


def test_a_half_written_checkpoint_is_skipped_and_removed(tmp_path, rows):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "save_total_limit": 3}
    whole = make_trainer(tmp_path / "whole", build_loss(DPO), rows, **settings)
    whole.train()
    with pytest.raises(Stop):
        make_trainer(tmp_path / "cut", build_loss(DPO), rows, callbacks=[StopAt(5)], **settings).train()
    half = tmp_path / "cut" / "checkpoint-4"
    (half / checkpoints.MARKER).unlink()
    (half / "model.safetensors").write_bytes(b"half")
    resumed = make_trainer(tmp_path / "cut", build_loss(DPO), rows, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) == 0.0
    with pytest.raises(PrefoptError, match="not a complete checkpoint"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-1"))


def test_checkpoints_hold_no_pickle_of_settings_and_old_ones_go(tmp_path, rows):
    make_trainer(tmp_path, build_loss(DPO), rows, save_strategy="steps", save_steps=1, max_steps=4).train()
    left = checkpoints.checkpoints(tmp_path)
    assert [path.name for path in left] == ["checkpoint-3"]  # none at the end: the model itself is saved then
    assert not list(tmp_path.rglob("training_args.bin"))
    assert checkpoints.is_complete(left[0])


def test_a_checkpoint_of_another_model_is_refused(tmp_path, rows):
    make_trainer(tmp_path, build_loss(DPO), rows, save_strategy="steps", save_steps=1, max_steps=3).train()
    from safetensors.torch import load_file, save_file

    path = tmp_path / "checkpoint-2" / "model.safetensors"
    state = load_file(path)
    state.pop("model.norm.weight")
    save_file(state, path, metadata={"format": "pt"})
    (path.parent / checkpoints.MARKER).unlink()
    checkpoints.mark_complete(path.parent)
    with pytest.raises(PrefoptError, match=r"another model \(model.norm.weight\)"):
        make_trainer(tmp_path, build_loss(DPO), rows, max_steps=3).train(resume_from_checkpoint=True)


# ---- several processes


@pytest.mark.slow
@pytest.mark.parametrize("loss", [DPO, "bco_pair"], ids=str)
def test_two_processes_train_like_one(tmp_path, loss):
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        done = run_worker(folder, loss, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(read_result(folder))
    (one, one_history), (two, two_history) = results
    assert largest_difference(one, two) < 1e-5
    assert [row["step"] for row in one_history] == [row["step"] for row in two_history]
    for first, second in zip(one_history, two_history, strict=True):
        assert first == pytest.approx(second, abs=1e-3, rel=1e-3)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_end_with_the_same_bytes(tmp_path):
    assert run_worker(tmp_path / "whole", DPO, processes=2).returncode == 0
    assert run_worker(tmp_path / "cut", DPO, processes=2, stop=5).returncode != 0
    resumed = run_worker(tmp_path / "cut", DPO, processes=2)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    (first, first_history), (second, second_history) = (
        read_result(tmp_path / "whole"),
        read_result(tmp_path / "cut"),
    )
    assert largest_difference(first, second) == 0.0
    assert first_history == second_history
