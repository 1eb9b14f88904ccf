"""The fused head against autograd's own log-softmax: values, gradients, memory, and when it stands aside."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GraniteConfig, LlamaConfig, LlamaForCausalLM

from prefopt.scoring import head
from prefopt.scoring.head import FusedHead, fused_head_logps, is_plain
from prefopt.scoring.logprobs import default_chunk_tokens, head_logps
from prefopt.scoring.workspace import Workspace

N, H, V = 23, 16, 50


def inputs(dtype=torch.float32, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(N, H, generator=draw)).to(dtype).requires_grad_()
    weight = nn.Parameter(torch.randn(V, H, generator=draw).to(dtype))
    return hidden, weight, torch.randint(0, V, (N,), generator=draw), torch.randn(N, generator=draw)


def plain(hidden, weight, targets):
    return (hidden @ weight.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("may_keep", [True, False])
@pytest.mark.parametrize("chunk", [1, 5, 23, 100])
def test_values_and_gradients_are_those_of_log_softmax(chunk, may_keep):
    hidden, weight, targets, slopes = inputs()
    logps = FusedHead.apply(hidden, weight, targets, chunk, may_keep, Workspace())
    found = torch.autograd.grad((logps * slopes).sum(), [hidden, weight])
    expected_logps = plain(hidden, weight, targets)
    expected = torch.autograd.grad((expected_logps * slopes).sum(), [hidden, weight])
    torch.testing.assert_close(logps, expected_logps, atol=1e-5, rtol=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


def test_gradient_by_finite_differences():
    hidden, weight, targets, _ = inputs(torch.float64)
    # log-probs are fp32 by contract, so the steps are wide and the tolerance is theirs
    assert torch.autograd.gradcheck(
        lambda h, w: FusedHead.apply(h, w, targets, 7, False, Workspace()).double(),
        (hidden, weight), eps=1e-2, atol=2e-2, rtol=2e-2, nondet_tol=0.0,
    )  # fmt: skip


def test_extreme_logits_stay_finite():
    hidden, weight, targets, slopes = inputs(scale=1e4)
    logps = FusedHead.apply(hidden, weight, targets, 8, True, Workspace())
    (logps * slopes).sum().backward()
    assert logps.isfinite().all()
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_bf16_gives_fp32_log_probs_and_bf16_gradients():
    hidden, weight, targets, slopes = inputs(torch.bfloat16)
    logps = FusedHead.apply(hidden, weight, targets, 8, True, Workspace())
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, plain(hidden, weight, targets))  # of the same logits in fp32
    (logps * slopes).sum().backward()
    expected = torch.autograd.grad((plain(hidden, weight, targets) * slopes).sum(), [hidden, weight])
    for ours, theirs in zip((hidden.grad, weight.grad), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_chunks_are_larger_on_cuda():
    """150k tokens of vocabulary: enough rows for a matrix product that is not bound by reading the weight."""
    cpu, cuda = (default_chunk_tokens(150_000, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert cpu == 111
    assert cuda == 894
    assert default_chunk_tokens(10**9, torch.device("cuda")) == 64


def test_frozen_sides_get_no_gradient():
    hidden, weight, targets, _ = inputs()
    weight.requires_grad_(False)
    FusedHead.apply(hidden, weight, targets, 8, True, Workspace()).sum().backward()
    assert weight.grad is None
    assert hidden.grad.abs().sum() > 0
    with torch.no_grad():
        assert not FusedHead.apply(hidden, weight, targets, 8, True, Workspace()).requires_grad


def test_a_second_backward_pass_is_refused():
    hidden, weight, targets, _ = inputs()
    total = FusedHead.apply(hidden, weight, targets, 8, True, Workspace()).sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        total.backward()


@pytest.mark.parametrize(("limit", "chunks"), [(10**9, 3), (0, 6)])
def test_above_the_limit_nothing_is_kept(limit, chunks, monkeypatch):
    """Three chunks forward; three more in the backward pass only where they were not kept."""
    calls: list[int] = []
    monkeypatch.setattr(head, "KEPT_ELEMENTS", limit)
    own = head._chunk
    monkeypatch.setattr(head, "_chunk", lambda rows, *rest: calls.append(len(rows)) or own(rows, *rest))
    hidden, weight, targets, _ = inputs()
    FusedHead.apply(hidden, weight, targets, 10, True, Workspace()).sum().backward()
    assert len(calls) == chunks
    assert max(calls) == 10


SIZES = {
    "vocab_size": V, "hidden_size": H, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("squares", [True, False])
def test_same_as_the_general_head(tied, squares):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    hidden, _, targets, _ = inputs()
    assert is_plain(model.lm_head, model.config, hidden)
    ours = fused_head_logps(model, hidden, targets, squares=squares)
    torch.testing.assert_close(ours, head_logps(model, hidden, targets, squares=squares))


def test_heads_that_are_not_plain_are_left_to_the_general_one():
    config = LlamaConfig(**SIZES)
    hidden = torch.zeros(1, H)
    linear = nn.Linear(H, V, bias=False)
    assert is_plain(linear, config, hidden)
    assert not is_plain(nn.Linear(H, V), config, hidden)
    assert not is_plain(nn.Sequential(linear), config, hidden)
    assert not is_plain(linear, GraniteConfig(**SIZES, logits_scaling=4.0), hidden)
    assert not is_plain(linear, config, hidden.to(torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_plain(linear, config, hidden)
    linear.register_forward_hook(lambda module, arguments, output: None)
    assert not is_plain(linear, config, hidden)
