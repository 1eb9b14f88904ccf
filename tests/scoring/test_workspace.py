"""Buffers that are used again, and gradients that are added in place: the same numbers as without."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prefopt.scoring.shared import packed_token_logps, sharing_by_config
from prefopt.scoring.workspace import Workspace, embed

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
# a prompt token 0 is padding to the embedding, which does not learn it
SEQUENCES = [([3, 0, 5], [7, 8, 9]), ([3, 0, 5], [10, 7]), ([4, 4], [11, 3, 3, 12]), ([6], [5, 9])]


def llama(*, tied: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))


def gradients(model: nn.Module, workspace: Workspace | None, *, passes: int = 2) -> dict[str, torch.Tensor]:
    """Gradients added up over passes, as over the rows of a step."""
    model.zero_grad()
    for part in range(passes):
        logps = packed_token_logps(
            model,
            SEQUENCES[part:],
            max_tokens_per_row=9,
            sharing=sharing_by_config(model),
            workspace=workspace,
        )
        torch.cat(logps).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_added_in_place_are_those_of_autograd(tied):
    model = llama(tied=tied)
    expected = gradients(model, None)
    found = gradients(model, Workspace(adds_gradients=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name


def test_in_place_or_not_is_seen_by_hooks_of_autograd():
    """A listener to a weight's gradient hears it: then nothing is added behind its back."""
    model = llama(tied=False)
    heard = []
    model.lm_head.weight.register_hook(lambda grad: heard.append("head"))
    model.model.embed_tokens.weight.register_post_accumulate_grad_hook(
        lambda weight: heard.append("embedding")
    )
    gradients(model, Workspace(adds_gradients=True), passes=1)
    assert {"head", "embedding"} <= set(heard)


def test_frozen_embedding_gets_no_gradient():
    model = llama(tied=False)
    model.model.embed_tokens.weight.requires_grad_(False)
    found = gradients(model, Workspace(adds_gradients=True))
    assert "model.embed_tokens.weight" not in found
    assert "lm_head.weight" in found


@pytest.mark.parametrize(
    "embedding",
    [
        nn.Embedding(5, 3, max_norm=1.0),
        nn.Embedding(5, 3, scale_grad_by_freq=True),
        nn.Embedding(5, 3, sparse=True),
        type("Scaled", (nn.Embedding,), {})(5, 3),
        nn.Linear(5, 3),
    ],
    ids=["max_norm", "by_freq", "sparse", "subclass", "linear"],
)
def test_embeddings_that_do_more_are_left_alone(embedding):
    assert not Workspace(adds_gradients=True).embeds(embedding)
    assert Workspace(adds_gradients=True).embeds(nn.Embedding(5, 3))
    assert not Workspace().embeds(nn.Embedding(5, 3))


def test_padding_does_not_learn():
    embedding = nn.Embedding(5, 3, padding_idx=0)
    ids = torch.tensor([[0, 2, 2, 4]])
    embed(ids, embedding).sum().backward()
    found, embedding.weight.grad = embedding.weight.grad, None
    embedding(ids).sum().backward()
    assert torch.equal(found, embedding.weight.grad)
    assert not found[0].any()


def test_a_buffer_is_used_again_and_the_largest_is_kept():
    workspace = Workspace()
    first = workspace.take(4, 5)
    place = first.data_ptr()
    assert workspace.take(4, 5).data_ptr() != place  # the first is still out
    workspace.give(first)
    smaller = workspace.take(3, 2)
    assert smaller.data_ptr() == place
    assert smaller.shape == (3, 2)
    workspace.give(smaller)
    workspace.give(torch.empty(2))
    assert workspace.take(4, 5).data_ptr() == place


def test_half_precision_and_other_devices_are_not_kept():
    workspace = Workspace()
    half = torch.empty(8, dtype=torch.bfloat16)
    workspace.give(half)
    workspace.give(torch.empty(8, device="meta"))
    assert workspace.take(2, 4).data_ptr() != half.data_ptr()


def test_models_saved_and_loaded_do_not_know_of_it(tmp_path):
    """Training in place leaves an ordinary model."""
    model = llama(tied=True)
    gradients(model, Workspace(adds_gradients=True))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
