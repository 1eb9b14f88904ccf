"""One optimizer step of one process against gradients taken by hand, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from training_worker import tiny_model

from prefopt.losses import build_loss
from prefopt.scoring.logprobs import completion_logps
from prefopt.training.collate import StepSampler, cut_share
from prefopt.training.step import StepRunner, gather_rows, sequence_weight


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def gradient_of(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def by_hand(rows, loss):
    """Gradient of sum_i w_i loss_i of the rows, each by itself, and the losses."""
    model = tiny_model()
    values = []
    for row in rows:
        logps = completion_logps(model, [(row.prompt, row.answers[role]) for role in ("chosen", "rejected")])
        inputs = {"chosen": logps[:1], "rejected": logps[1:]}
        inputs |= {f"ref_{role}": torch.tensor([value]) for role, value in row.reference.items()}
        value = loss(inputs)
        (row.weight * value).sum().backward()
        values.append(float(value.detach()))
    return gradient_of(model), values


@pytest.mark.parametrize("rank", [0, 1])
def test_a_share_counts_its_own_rows_each_once_with_its_weight(accelerator, rows, rank):
    """Three weighted rows on two processes: the second has a stand-in, which counts nothing; gradients are averaged later."""
    three = [replace(row, weight=weight) for row, weight in zip(rows[:3], (0.5, 2.0, 1.5), strict=True)]
    loss = build_loss({"name": "dpo", "beta": 0.5})
    share = cut_share(three, processes=2, rank=rank, micro_batch=1)
    slots = [slot for batch in share.micro_batches for slot in batch]
    mine = [slot.example for slot in slots if slot.valid]
    assert [slot.valid for slot in slots] == ([True, True] if rank == 0 else [True, False])
    wanted, _ = by_hand(mine, loss)
    model = tiny_model()
    runner = StepRunner(accelerator, loss)
    runner.processes = 2
    table = runner.step(model, share, 0.0)
    torch.testing.assert_close(gradient_of(model), wanted * 2 / 3, rtol=1e-4, atol=1e-6)
    assert len(table["loss"]) == len(mine)


def test_columns_are_in_the_steps_order_however_rows_were_cut(accelerator, rows):
    """Rows are dealt by length, longest first; what comes back is as they were given."""
    loss = build_loss({"name": "dpo", "beta": 0.5})
    share = cut_share(rows[:5], processes=1, rank=0, micro_batch=2)
    assert [slot.position for batch in share.micro_batches for slot in batch] != [0, 1, 2, 3, 4]
    table = StepRunner(accelerator, loss).step(tiny_model(), share, 0.0)
    assert table["loss"].tolist() == pytest.approx(by_hand(rows[:5], loss)[1], abs=1e-5)
    assert table["ref_chosen"].tolist() == pytest.approx([row.reference["chosen"] for row in rows[:5]])


def test_gathered_rows_leave_out_what_stands_in(accelerator):
    tables = [
        {"position": torch.tensor([2.0, 0.0]), "valid": torch.tensor([1.0, 1.0]), "x": torch.tensor([7.0, 5.0])},
        {"position": torch.tensor([1.0, 1.0]), "valid": torch.tensor([1.0, 0.0]), "x": torch.tensor([6.0, 9.0])},
    ]  # fmt: skip
    assert gather_rows(accelerator, tables)["x"].tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize(("drift", "kl"), [(3.0, 3.0), (-3.0, 0.0)])
def test_ktos_estimate_is_the_mean_of_the_mismatched_log_ratios_and_not_below_0(accelerator, drift, kl):
    """By hand: the desired row's loss is 1 - s(beta (r - kl)) with r = 2."""
    runner = StepRunner(accelerator, build_loss({"name": "kto", "beta": 0.1}))
    zeros = torch.zeros(2)
    table = {
        "completion": zeros + 2.0, "ref_completion": zeros, "label": torch.tensor([1.0, 0.0]), "weight": zeros + 1.0,
        "kl": torch.tensor([drift - 1.0, drift + 1.0]), "ref_kl": zeros,
    }  # fmt: skip
    v = torch.tensor(0.1 * (2.0 - kl))
    wanted = torch.stack([torch.sigmoid(-v), torch.sigmoid(v)])
    torch.testing.assert_close(runner.losses(table, 0.0), wanted)


def test_wpos_weight_is_a_mean_over_tokens_without_gradient():
    tokens = torch.tensor([[-1.0, -0.5], [-2.0, -0.5]], requires_grad=True)
    found = sequence_weight([tokens])
    assert found.tolist() == pytest.approx([torch.tensor(-1.0).exp().item()])  # ((-.5) + (-1.5)) / 2
    assert not found.requires_grad


def test_every_epoch_has_its_own_order():
    sampler = StepSampler(12, 5, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([row for step in sampler for row in step])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != [row for step in StepSampler(12, 5, seed=4) for row in step]
