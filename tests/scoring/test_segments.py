"""Packed rows attended piece by piece: the same as under their mask, whoever asks."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import trained
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prefopt.core.errors import PrefoptError
from prefopt.scoring import segments, shared
from prefopt.scoring.masks import MaskForm, visible
from prefopt.scoring.packing import make_groups, make_row
from prefopt.scoring.segments import (
    NAME,
    attention_of,
    candidates,
    choose_attention,
    mark,
    pieces_of,
    segment_attention,
)
from prefopt.scoring.shared import check_sharing, packed_token_logps
from prefopt.stages.train.settings import TrainConfig, trainer_settings

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
SEQUENCES = [([1, 2, 3], [4, 5]), ([1, 2, 3], [6, 7, 8]), ([9, 9], [3, 3])]
LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=4)  # fmt: skip


def row_of(sizes, **options):
    """A row of groups, each a prompt length with its answers' lengths."""
    sequences = []
    for k, (prompt, answers) in enumerate(sizes):
        sequences += [([k + 1] * prompt, [9] * answer) for answer in answers]
    return make_row(make_groups(sequences, 10**6), **options)


def heads(tokens, seed=0):
    """Query of four heads, key and value of two."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(1, count, tokens, 8, generator=draw).requires_grad_() for count in (4, 2, 2)]


@settings(deadline=None, max_examples=40)
@given(LENGTHS)
def test_pieces_give_what_the_mask_gives(sizes):
    row = row_of(sizes)
    mask = visible(row, None)[None, None]
    results = []
    for given_mask in (mask, mark(mask.clone(), row)):
        inputs = heads(len(row.input_ids))
        out, _ = segment_attention(LlamaAttention(), *inputs, given_mask, scaling=0.3)
        out.square().sum().backward()
        results.append([out, *(each.grad for each in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


class LlamaAttention(torch.nn.Module):
    """What attention functions read of a layer."""

    num_key_value_groups = 2
    is_causal = True


@given(LENGTHS)
def test_pieces_cover_the_row_in_order(sizes):
    row = row_of(sizes)
    pieces = pieces_of(row)
    assert sum(piece.size for piece in pieces) == len(row.input_ids)
    seen = np.zeros((len(row.input_ids),) * 2, bool)
    start = 0
    for piece in pieces:
        end = start + piece.size
        if piece.prompt is None:
            seen[start:end, start:end] = np.tril(np.ones((piece.size, piece.size), bool))
        else:
            columns = [*range(*piece.prompt), *range(start, end)]
            seen[np.ix_(range(start, end), columns)] = piece.seen.numpy()
        start = end
    assert np.array_equal(seen, visible(row, None).numpy())


def test_a_row_with_padding_has_no_pieces():
    assert pieces_of(row_of([(3, [2, 2])], pad_to=8)) is None


def llama(attention="sdpa"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(**SIZES)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def test_a_checked_model_runs_rows_piece_by_piece_and_other_input_as_before(monkeypatch):
    model = llama()
    sequences = SEQUENCES
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    before = model(ids).logits
    calls = []
    own = segments.attention
    monkeypatch.setattr(segments, "attention", lambda *a, **k: calls.append(1) or own(*a, **k))
    sharing = check_sharing(model, sequences)
    calls.clear()
    packed_token_logps(model, sequences, max_tokens_per_row=100, sharing=sharing)
    assert len(calls) == 2 * 3  # layers, pieces: two groups and a second answer
    calls.clear()
    assert torch.equal(model(ids).logits, before)
    padded = model(ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1]])).logits
    torch.testing.assert_close(padded[:, 2:], model(ids[:, 2:]).logits, atol=1e-5, rtol=1e-5)
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 8)
    assert not calls


def test_the_saved_model_knows_nothing_of_it(tmp_path):
    model = llama()
    check_sharing(model, SEQUENCES)
    assert attention_of(model) == NAME
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert LlamaForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_candidates_on_the_cpu():
    """What the user chose by hand stays; compiled layers would be compiled for every row."""
    assert candidates(llama()) == [NAME, "sdpa"]
    assert candidates(llama("eager")) == ["eager"]
    compiled = llama()
    compiled.model.layers[0].compile(backend="eager")
    assert candidates(compiled) == ["sdpa"]


class OnCuda(torch.nn.Module):
    """A model as far as `candidates` looks at it."""

    def __init__(self):
        super().__init__()
        self.config = LlamaConfig(**SIZES)
        self.config._attn_implementation = "sdpa"

    def parameters(self, recurse=True):
        return iter([types.SimpleNamespace(device=torch.device("cuda"))])


def test_pieces_are_for_the_cpu():
    assert candidates(OnCuda()) == ["sdpa"]


def test_attention_is_what_the_settings_say():
    model = llama()
    choose_attention(model, "eager")
    assert attention_of(model) == "eager"
    assert candidates(model) == ["eager"]
    model._supports_flex_attn = False
    with pytest.raises(PrefoptError, match=r"attention.*'llama' do not support flex_attention"):
        choose_attention(model, "flex_attention")


def test_the_setting_reaches_the_model(tmp_path, rows):
    trainer = trained(tmp_path, "dpo", rows, attention="eager", max_steps=1)
    assert attention_of(trainer.model) == "eager"
    assert trainer_settings(TrainConfig(attention="eager"), tmp_path, 0, False).attention == "eager"


def test_where_no_candidate_agrees_the_model_keeps_its_own(monkeypatch):
    monkeypatch.setattr(shared, "TOLERANCE_NATS", {torch.float32: -1.0})
    model = llama()
    assert check_sharing(model, SEQUENCES).form is None
    assert attention_of(model) == "sdpa"


def test_a_candidate_whose_kernels_fail_is_passed_over(monkeypatch):
    """Also when they fail in the backward pass alone."""

    def refuse(*args, **kwargs):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(segments, "attention", refuse)
    model = llama()
    assert check_sharing(model, SEQUENCES).form is not None
    assert attention_of(model) == "sdpa"
    monkeypatch.undo()
    plain = torch.zeros(7)
    monkeypatch.setattr(shared, "packed_token_logps", lambda *args, **kwargs: [plain])
    block = MaskForm("block", False, None)
    monkeypatch.setattr(shared, "_try_backward", lambda *args: None)
    assert shared._difference(model, SEQUENCES, block, plain) == 0
    monkeypatch.setattr(shared, "_try_backward", refuse)
    assert shared._difference(model, SEQUENCES, block, plain) == float("inf")


def test_the_trial_of_a_backward_pass_leaves_no_gradient():
    model = llama()
    sharing = check_sharing(model, SEQUENCES)
    shared._try_backward(model, SEQUENCES, sharing.form)
    assert all(weight.grad is None for weight in model.parameters())
