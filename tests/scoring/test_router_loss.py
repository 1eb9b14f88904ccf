"""The load-balancing loss of a mixture of experts: each real token once, whatever the packing and micro-batches."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from training_worker import make_examples, make_trainer, tiny_model
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, TrainerCallback
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from prefopt.core.errors import PrefoptError
from prefopt.losses import build_loss
from prefopt.scoring.logprobs import token_logps
from prefopt.scoring.router import RouterLoss, balance_loss
from prefopt.scoring.shared import check_sharing, packed_token_logps
from prefopt.training.metrics import history_rows

FACTOR = 0.5
EXPERTS, TOP = 6, 2


def moe():
    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_experts=EXPERTS, num_experts_per_tok=TOP,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=128,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3MoeForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows():
    return make_examples(10, 0, moe())


def plain_loss(model, examples):
    """transformers' own function on unpadded sequences, each real token of a pair taken once."""
    layers = [[] for _ in range(model.config.num_hidden_layers)]
    for example in examples:
        for index, answer in enumerate(example.answers.values()):
            ids = torch.tensor([[*example.prompt.tolist(), *answer.tolist()[:-1]]])
            logits = model(input_ids=ids, output_router_logits=True).router_logits
            for layer, found in zip(layers, logits, strict=True):
                layer.append(found if index == 0 else found[len(example.prompt) :])
    return load_balancing_loss_func(tuple(torch.cat(layer) for layer in layers), EXPERTS, TOP)


@pytest.mark.parametrize("way", ["packed", "padded", "single"])
def test_value_and_gradient_equal_the_plain_computation(rows, way):
    model = moe()
    pairs = [(e.prompt, e.answers[role]) for role in ("chosen", "rejected") for e in rows]
    tap = RouterLoss(FACTOR, TOP).tap([True] * len(rows), 2)
    if way == "packed":
        sharing = check_sharing(model, pairs)
        assert sharing.form is not None
        packed_token_logps(model, pairs, max_tokens_per_row=70, sharing=sharing, router=tap)
    elif way == "padded":
        token_logps(model, pairs, router=tap)
    else:
        from prefopt.scoring.shared import Sharing

        packed_token_logps(model, pairs, max_tokens_per_row=70, sharing=Sharing(None, "test"), router=tap)
    real = sum(len(e.prompt) + sum(len(a) - 1 for a in e.answers.values()) for e in rows)
    assert float(tap.tokens) == pytest.approx(2 * real)  # two layers
    ours, theirs = balance_loss(tap.chosen, tap.probs, tap.tokens), plain_loss(model, rows)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    weights = [w for n, w in model.named_parameters() if n.endswith(("gate.weight", "embed_tokens.weight"))]
    for mine, other in zip(
        torch.autograd.grad(ours, weights), torch.autograd.grad(theirs, weights), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-6)
        assert float(other.abs().max()) > 1e-4


def first_gradients(folder, rows, loss, **settings):
    found = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found.update({name: p.grad.clone() for name, p in model.named_parameters()})

    fixed = {"max_steps": 1, "max_grad_norm": 0.0, "pairs_per_step": len(rows), "logging_steps": 1}
    trainer = make_trainer(
        folder, build_loss(loss), rows, model=moe(), callbacks=[Catch()], **{**fixed, **settings}
    )
    trainer.train()
    return found, history_rows(trainer.state.log_history)[-1]


def distance(first, second):
    return math.sqrt(sum(float((first[n] - second[n]).square().sum()) for n in first))


@pytest.mark.parametrize("loss", [pytest.param("dpo", marks=pytest.mark.slow), "bco_pair"])
def test_the_gradient_of_a_step_has_the_term_whatever_the_batches(tmp_path, rows, loss):
    ways = [
        {"pairs_per_micro_batch": 10},
        {"pairs_per_micro_batch": 1},
        {"shared_prefix": True, "max_tokens_per_row": 30},
        {"shared_prefix": True, "max_tokens_per_row": 2000},
    ]
    found = [first_gradients(tmp_path, rows, loss, router_loss=FACTOR, **way) for way in ways]
    without, line = first_gradients(tmp_path, rows, loss)
    assert "router_loss" not in line

    model = moe()
    (FACTOR * plain_loss(model, rows)).backward()
    term = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    expected = {name: without[name] + term[name] for name in without}
    norm = distance(expected, {n: torch.zeros_like(g) for n, g in expected.items()})
    assert distance(expected, without) > 1e-2 * norm
    for gradients, line in found:
        assert distance(gradients, expected) < 1e-5 * norm
        assert line["router_loss"] == pytest.approx(float(plain_loss(moe(), rows).detach()), rel=1e-5)


def test_off_is_told_and_a_dense_model_has_none(tmp_path, rows, caplog):
    with caplog.at_level(logging.INFO, "prefopt.train"):
        make_trainer(tmp_path, build_loss("dpo"), rows, model=moe())
    assert "router_loss is off" in caplog.text
    with pytest.raises(PrefoptError, match="have no routers"):
        make_trainer(tmp_path, build_loss("dpo"), make_examples(8, 0, tiny_model()), router_loss=0.1)
