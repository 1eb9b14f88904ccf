"""Packed rows in the trainer and the reference stage: the same training as on padded batches, to rounding."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import DPO, largest_difference, read_result, run_worker, trained, weights_of
from training_worker import Stop, StopAt, make_examples, make_trainer, tiny_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MambaConfig, MambaForCausalLM, TrainerCallback

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.scoring.logprobs import score_cuts
from prefopt.scoring.masks import MaskForm
from prefopt.stages.train.settings import TrainConfig, trainer_settings
from prefopt.training.collate import Example, compact
from prefopt.training.examples import unpair
from prefopt.training.metrics import history_rows
from prefopt.training.rows import SharedTokens, cut_rows, default_tokens_per_row, example_tokens
from prefopt.training.settings import PreferenceConfig

SHARED = {"shared_prefix": True}


# ---- shares


@given(
    sizes=st.lists(st.tuples(*[st.integers(1, 20)] * 3), min_size=1, max_size=24),
    processes=st.integers(1, 4),
    budget=st.integers(1, 90),
)
def test_every_example_is_trained_on_once_and_processes_have_equally_many_rows(sizes, processes, budget):
    examples = [
        Example(str(k), compact([1] * p), {"chosen": compact([2] * c), "rejected": compact([3] * r)})
        for k, (p, c, r) in enumerate(sizes)
    ]
    shares = [
        cut_rows(examples, processes=processes, rank=rank, max_tokens_per_row=budget)
        for rank in range(processes)
    ]
    assert len({len(share.micro_batches) for share in shares}) == 1
    slots = [slot for share in shares for row in share.micro_batches for slot in row]
    assert sorted(slot.position for slot in slots if slot.valid) == list(range(len(examples)))
    assert all(slot.example is examples[slot.position] for slot in slots)
    for share in shares:
        assert share.ids == tuple(example.id for example in examples)
        for row in share.micro_batches:
            assert len(row) == 1 or sum(example_tokens(slot.example) for slot in row) <= budget
    assert shares == [
        cut_rows(examples, processes=processes, rank=rank, max_tokens_per_row=budget)
        for rank in range(processes)
    ]


# ---- the same training


@pytest.mark.parametrize("loss", [DPO, "orpo", "bco_pair"], ids=str)
def test_shared_rows_train_like_padded_batches(tmp_path, rows, loss):
    padded = trained(tmp_path, loss, rows)
    start = weights_of(make_trainer(tmp_path, build_loss(loss), rows))
    for tokens in (None, 25):
        shared = trained(tmp_path, loss, rows, **SHARED, max_tokens_per_row=tokens)
        assert shared.runner.tokens_of.sharing.form is not None
        assert largest_difference(weights_of(padded), weights_of(shared)) < 1e-5
        histories = [history_rows(trainer.state.log_history) for trainer in (padded, shared)]
        for one, other in zip(*histories, strict=True):
            assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    assert largest_difference(weights_of(padded), start) > 1e-3


LENGTHS_AND_WEIGHTS = [
    {"name": "dpo", "ld_alpha": 0.3},
    {"name": "ipo", "wpo": True},
    {"name": "bco_pair", "ld_alpha": 0.3, "wpo": True},
]


@pytest.mark.parametrize("loss", LENGTHS_AND_WEIGHTS, ids=str)
def test_length_splits_and_sequence_weights_are_those_of_padded_batches(tmp_path, rows, loss):
    examples = []
    for row in rows[:12]:
        pairs = [(row.prompt, row.answers[role]) for role in ("chosen", "rejected")]
        (chosen,), (rejected,) = score_cuts(tiny_model(), pairs, [(row.shared_tokens,)] * 2, 512)
        reference = {**row.reference, "chosen_prefix": chosen, "rejected_prefix": rejected}
        examples.append(replace(row, reference=reference))
    found = []
    for more in ({"pairs_per_micro_batch": 4}, {**SHARED, "max_tokens_per_row": 60}):
        trainer = make_trainer(tmp_path, build_loss(loss), examples, pairs_per_step=12, **more)
        table = trainer.runner.step(trainer.model, trainer._collator()(examples), 0.0)
        found.append((table, {name: p.grad for name, p in trainer.model.named_parameters()}))
    (padded, expected), (shared, gradients) = found
    wanted = {"chosen_prefix", "rejected_prefix"} if "ld_alpha" in loss else set()
    assert wanted | ({"wpo_weight"} if loss.get("wpo") else set()) <= set(padded)
    assert set(padded) == set(shared)
    assert largest_difference(padded, shared) < 1e-4
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    off = math.sqrt(sum(float((g - gradients[name]).square().sum()) for name, g in expected.items()))
    assert off < 1e-5 * norm


def test_unpaired_rows_and_their_mismatched_answers(tmp_path, rows):
    singles = [
        replace(
            row, answers={**row.answers, "kl": compact([5, 9, 7])}, reference={**row.reference, "kl": -12.0}
        )
        for row in unpair(rows)
    ]
    padded, shared = (
        trained(tmp_path, "kto", singles, **more) for more in ({}, {**SHARED, "max_tokens_per_row": 40})
    )
    assert largest_difference(weights_of(padded), weights_of(shared)) < 1e-5


def test_gradient_of_a_step_does_not_depend_on_the_packing(tmp_path, rows):
    found = []
    for tokens in (1, 30, 60, 2000):
        caught = {}

        class Catch(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, caught=caught, **kwargs):
                caught.update({name: p.grad.clone() for name, p in model.named_parameters()})

        make_trainer(
            tmp_path, build_loss(DPO), rows, callbacks=[Catch()], max_steps=1, max_grad_norm=0.0,
            pairs_per_step=20, **SHARED, max_tokens_per_row=tokens,
        ).train()  # fmt: skip
        found.append(caught)
    norm = math.sqrt(sum(float(g.square().sum()) for g in found[0].values()))
    for other in found[1:]:
        difference = math.sqrt(sum(float((found[0][n] - other[n]).square().sum()) for n in other))
        assert difference < 1e-5 * norm


def test_a_model_with_a_sliding_window(tmp_path):
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=4, initializer_range=0.1, bos_token_id=1,
        eos_token_id=2, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip

    def build():
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config).eval()

    examples = make_examples(10, 0, build())
    padded, shared = (
        trained(tmp_path, DPO, examples, model=build(), **more)
        for more in ({}, {**SHARED, "max_tokens_per_row": 50})
    )
    assert largest_difference(weights_of(padded), weights_of(shared)) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_recurrent_model_trains_unshared_with_a_warning(tmp_path, caplog):
    def build():
        torch.manual_seed(0)
        return MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)).eval()

    examples = [replace(row, reference={}) for row in make_examples(4)]
    settings = {"max_steps": 1, "pairs_per_step": 4}
    padded = trained(tmp_path, "simpo", examples, model=build(), **settings)
    with caplog.at_level(logging.WARNING):
        shared = trained(tmp_path, "simpo", examples, model=build(), **settings, **SHARED)
    assert "'mamba' run one sequence at a time" in caplog.text
    assert largest_difference(weights_of(padded), weights_of(shared)) < 1e-5


def test_step_zero_shows_no_reward(tmp_path, rows):
    trainer = trained(tmp_path, "dpo", rows, max_steps=1, **SHARED)
    first = trainer.state.log_history[0]
    figures = [value for name, value in first.items() if name.startswith("step0/") and "reward" in name]
    assert figures
    assert max(map(abs, figures)) < 1e-5


# ---- resume


@pytest.mark.parametrize("stop", [4])
def test_packed_resume_is_bitwise(tmp_path, rows, stop):
    held_out = make_examples(5, 1, tiny_model())
    resume = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3,
              "eval_strategy": "steps", "eval_steps": 2, "max_tokens_per_row": 40}  # fmt: skip

    def build(folder, **more):
        return make_trainer(folder, build_loss(DPO), rows, held_out, **resume, **SHARED, **more)

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


# ---- several processes


@pytest.mark.slow
def test_two_processes_train_like_one_and_resume_bitwise(tmp_path):
    for name, processes, stop in (("one", 1, 0), ("two", 2, 0), ("cut", 2, 5), ("cut", 2, 0)):
        done = run_worker(
            tmp_path / name, DPO, processes=processes, stop=stop, **SHARED, max_tokens_per_row=60
        )
        assert (done.returncode != 0) == bool(stop), done.stderr[-3000:]
    (one, one_history), (two, two_history), (cut, cut_history) = (
        read_result(tmp_path / name) for name in ("one", "two", "cut")
    )
    assert largest_difference(one, two) < 1e-5
    for first, second in zip(one_history, two_history, strict=True):
        assert first == pytest.approx(second, abs=1e-3, rel=1e-3)
    assert largest_difference(two, cut) == 0.0
    assert two_history == cut_history


# ---- settings


def test_settings_reach_the_trainer(tmp_path):
    config = TrainConfig(shared_prefix=True, max_tokens_per_row=77)
    found = trainer_settings(config, tmp_path, 0, False)
    assert (found.shared_prefix, found.max_tokens_per_row) == (True, 77)
    assert trainer_settings(TrainConfig(), tmp_path, 0, False).shared_prefix is None
    assert default_tokens_per_row(torch.device("cpu")) < default_tokens_per_row(torch.device("cuda"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shared_prefix": True, "pairs_per_micro_batch": 2}, "pairs_per_micro_batch is not used"),
        ({"max_tokens_per_row": 5, "shared_prefix": False}, "is of packed rows"),
        ({"max_tokens_per_row": 5, "pairs_per_micro_batch": 2}, "is of packed rows"),
        ({"shared_prefix": True, "max_tokens_per_row": 0}, "at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(tmp_path, more, message):
    with pytest.raises(PrefoptError, match=message):
        PreferenceConfig(output_dir=str(tmp_path), use_cpu=True, **more)


def test_default_rows_by_device_and_mask():
    """On a GPU a dense mask costs the square of its row."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    dense, block = MaskForm("bool", False, None), MaskForm("block", False, None)
    assert [default_tokens_per_row(cpu, form) for form in (None, dense)] == [768, 768]
    assert [default_tokens_per_row(cuda, form) for form in (None, block, dense)] == [16384, 16384, 2048]


@pytest.mark.parametrize(("options", "expected"), [({"may_shorten": True}, 7), ({}, 20)])
def test_only_a_default_budget_is_cut(options, expected, monkeypatch):
    monkeypatch.setattr("prefopt.training.rows.default_tokens_per_row", lambda device, form: 7)
    tokens_of = SharedTokens(make_examples(2), 20, **options)
    tokens_of(tiny_model(), tokens_of.trial)
    assert tokens_of.max_tokens_per_row == expected
