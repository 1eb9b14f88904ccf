"""Packed rows with shared prefixes against the plain forward of one sequence: values, gradients, isolation."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from prefopt.core.errors import PrefoptError
from prefopt.scoring import shared
from prefopt.scoring.logprobs import token_logps
from prefopt.scoring.masks import MaskForm, make_mask, mask_forms, visible
from prefopt.scoring.packing import pack_sequences
from prefopt.scoring.shared import (
    Sharing,
    check_sharing,
    packed_logps,
    packed_score,
    packed_token_logps,
    sharing_by_config,
)

VOCAB, BUDGET = 97, 48
PLAIN = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # sharp enough that a wrong position or mask shows
}
SMALL = {**PLAIN, "head_dim": 8}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL),
    "llama-tied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SMALL),
    "qwen3-window": lambda: Qwen3Config(
        **SMALL, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "mistral": lambda: MistralConfig(**SMALL, sliding_window=5),
    "gemma3": lambda: Gemma3TextConfig(
        **SMALL, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=40, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "phi3": lambda: Phi3Config(**PLAIN, sliding_window=5),
    "olmo2": lambda: Olmo2Config(**PLAIN),
    "qwen3-moe": lambda: Qwen3MoeConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "granite": lambda: GraniteConfig(**PLAIN, logits_scaling=4.0),
    "gemma2": lambda: Gemma2Config(
        **SMALL, sliding_window=4, attn_logit_softcapping=20.0, final_logit_softcapping=3.0
    ),
}  # fmt: skip
ALONE = {
    "mamba": lambda: MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1),
    "lfm2": lambda: Lfm2Config(**PLAIN, layer_types=["conv", "full_attention"]),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2),
}
MODELS: dict[str, torch.nn.Module] = {}


def model_of(kind: str, attention: str | None = None) -> torch.nn.Module:
    name = f"{kind}/{attention}"
    if name not in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = {**CONFIGS, **ALONE}[kind]()
            MODELS[name] = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    MODELS[name].zero_grad()
    return MODELS[name]


def sequences_of(seed: int, longest: int = 16) -> list[tuple[list[int], list[int]]]:
    """Two, one, three and two answers for four prompts."""
    rng = np.random.default_rng(seed)

    def ids() -> list[int]:
        return rng.integers(3, VOCAB, rng.integers(1, longest)).tolist()

    return [(prompt, ids()) for count in (2, 1, 3, 2) for prompt in [ids()] for _ in range(count)]


def plain(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Per-token log-probs by the model's own logits, one sequence at a time."""
    ids = torch.tensor([prompt + answer])
    logps = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    return logps[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_equal_to_one_sequence_at_a_time(kind, attention):
    """fp32: each token within 1e-5 nats, gradients within 1e-5 of their norm."""
    if (kind, attention) == ("gemma2", "sdpa"):
        pytest.skip("its attention softcap needs eager")
    model, sequences = model_of(kind, attention), sequences_of(1)
    sharing = check_sharing(model, sequences)
    assert sharing.form is not None
    weights = torch.linspace(-1, 1, len(sequences))
    ours = packed_token_logps(model, sequences, max_tokens_per_row=BUDGET, sharing=sharing)
    torch.stack([w * each.sum() for w, each in zip(weights, ours, strict=True)]).sum().backward()
    our_gradients = gradients(model)
    theirs = [plain(model, *sequence) for sequence in sequences]
    torch.stack([w * each.sum() for w, each in zip(weights, theirs, strict=True)]).sum().backward()
    their_gradients = gradients(model)

    for found, expected in zip(ours, theirs, strict=True):
        assert (found - expected).abs().max() < 1e-5
    assert our_gradients.keys() == their_gradients.keys()
    norm = torch.stack([g.norm() for g in their_gradients.values()]).norm()
    difference = torch.stack([(our_gradients[n] - g).norm() for n, g in their_gradients.items()]).norm()
    assert difference < 1e-5 * norm


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "gemma2"])
def test_no_answer_sees_another(kind):
    """Change one answer, or another group: the other values of the row do not change by a bit."""
    model, sequences = model_of(kind, "sdpa"), sequences_of(2)
    sharing = sharing_by_config(model)

    def values(changed):
        with torch.no_grad():
            return packed_token_logps(model, changed, max_tokens_per_row=1000, sharing=sharing)

    before = values(sequences)
    assert len(pack_sequences(sequences, 1000)) == 1
    for place in range(len(sequences)):
        prompt, answer = sequences[place]
        other = [(token - 3 + 40) % (VOCAB - 3) + 3 for token in answer]
        after = values([*sequences[:place], (prompt, other), *sequences[place + 1 :]])
        assert not torch.equal(after[place], before[place])
        for k in range(len(sequences)):
            if k != place and kind == "qwen3-moe":  # its experts compute tokens in groups of another size
                torch.testing.assert_close(after[k], before[k], atol=1e-5, rtol=0)
            elif k != place:
                assert torch.equal(after[k], before[k])


@given(seed=st.integers(0, 10**6), budget=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_the_plan_does_not_matter(seed, budget):
    model, sequences = model_of("gemma3", "sdpa"), sequences_of(seed)
    with torch.no_grad():
        packed = packed_logps(model, sequences, max_tokens_per_row=budget, chunk_tokens=7)
        alone = torch.stack([token_logps(model, [sequence])[0].sum() for sequence in sequences])
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-6)


def test_score_keeps_order_and_mode():
    model, sequences = model_of("llama", "sdpa"), sequences_of(4)
    expected = [plain(model, *sequence).sum().item() for sequence in sequences]
    model.train()
    assert packed_score(model, sequences, 60) == pytest.approx(expected, abs=1e-4)
    assert model.training
    model.eval()
    assert packed_score(model, [], 60) == []


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.filterwarnings("ignore")
def test_models_that_cannot_share_run_alone_and_say_so(kind, caplog):
    model, sequences = model_of(kind, "eager"), sequences_of(5)
    with caplog.at_level(logging.WARNING):
        sharing = check_sharing(model, sequences)
    assert sharing.form is None
    assert f"{model.config.model_type!r} run one sequence at a time" in caplog.text
    with torch.no_grad():
        found = packed_token_logps(model, sequences, max_tokens_per_row=BUDGET, sharing=sharing)
        for ours, sequence in zip(found, sequences, strict=True):
            torch.testing.assert_close(ours, plain(model, *sequence), atol=1e-5, rtol=0)


def test_the_check_logs_its_choice_and_finds_another_form(caplog, monkeypatch):
    """Given a wrong proposal first, it goes on to the one that is right."""
    model, sequences = model_of("gemma3", "sdpa"), sequences_of(6)
    right = mask_forms(model.config)[0]
    wrong = MaskForm("bool", False, None)  # every layer without a window, as for Llama
    with torch.no_grad():
        plain_logps = torch.cat([token_logps(model, [s])[0] for s in sequences])
    assert shared._difference(model, sequences, wrong, plain_logps) > 1e-2
    monkeypatch.setattr(shared, "mask_forms", lambda config: [wrong, right])
    with caplog.at_level(logging.INFO):
        assert check_sharing(model, sequences) == Sharing(right)
    assert "prefopt_segments, bool, one mask per layer type, window 4 (gemma3_text)" in caplog.text


def test_a_form_that_is_refused_or_wrong_falls_back(caplog, monkeypatch):
    model, sequences = model_of("llama", "sdpa"), sequences_of(7)
    monkeypatch.setattr(shared, "mask_forms", lambda config: [MaskForm("bool", True, None)])
    assert check_sharing(model, sequences).form is None
    assert "by inf nats per token" in caplog.text
    monkeypatch.setattr(shared, "mask_forms", lambda config: [MaskForm("bool", False, 3)])
    assert check_sharing(model, sequences).form is None
    assert "packed rows differ" in caplog.text


def test_the_check_stays_within_the_models_positions():
    """40 positions, and the longest sequence has them all."""
    model = model_of("gpt2", "sdpa")
    sequences = [([5] * 30, [6] * 10), ([4] * 3, [7] * 20)]
    assert check_sharing(model, sequences).form is not None
    for prompt, answer in shared.trial_row(sequences):
        assert len(prompt) + len(answer) <= 40


def test_the_check_meets_the_longest_sequence_and_the_shortest():
    """By length of prompt and answer together: neither has the longest or shortest prompt or answer."""
    sizes = [(8, 3), (3, 9), (6, 7), (6, 2), (1, 6), (2, 4)]
    first, second, third = shared.trial_row([([p] * p, [a] * a) for p, a in sizes])
    assert first == ([6] * 6, [7] * 7)
    # the same prompt, another answer that is no longer
    assert second == ([6] * 6, [4, 4, 4, 4, 7, 7, 7])
    assert third == ([2] * 2, [4] * 4)


def test_weights_that_are_not_numbers_are_refused():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(PrefoptError, match="not finite"):
        check_sharing(model, sequences_of(8))


@given(seed=st.integers(0, 10**6), window=st.sampled_from([None, 1, 3, 10]), pad_to=st.sampled_from([1, 16]))
@settings(max_examples=30, deadline=None)
def test_mask_is_that_of_each_sequence_alone(seed, window, pad_to):
    """Cut out the tokens of prompt and answer: what is left is causal, with the window; nothing else is seen."""
    for row in pack_sequences(sequences_of(seed, 9), 60, pad_to=pad_to):
        seen = visible(row, window).numpy()
        for group, segment in {(g, s) for g, s in zip(row.groups, row.segments, strict=True) if g >= 0 and s}:
            own = (row.groups == group) & ((row.segments == 0) | (row.segments == segment))
            back = np.subtract.outer(np.arange(own.sum()), np.arange(own.sum()))
            causal = (back >= 0) & (back < (window or 10**6))
            assert np.array_equal(seen[np.ix_(own, own)], causal)
            mine = own & (row.segments == segment)
            assert not seen[np.ix_(mine, ~own)].any()
        assert seen.diagonal().all()
        assert not np.triu(seen, 1).any()


def test_forms_of_one_mask_agree():
    row = pack_sequences(sequences_of(9), 200)[0]
    seen = visible(row, 3)[None, None]
    added = make_mask(MaskForm("additive", False, 3), row, torch.bfloat16, "cpu")
    assert added.dtype == torch.bfloat16
    assert torch.equal(added == 0, seen)
    assert added.min() == torch.finfo(torch.bfloat16).min
    both = make_mask(MaskForm("bool", True, 3), row, torch.float32, "cpu")
    assert torch.equal(both["sliding_attention"], seen)
    assert torch.equal(both["full_attention"], visible(row, None)[None, None])
    far = make_mask(MaskForm("bool", False, 1000), row, torch.float32, "cpu")
    assert torch.equal(far, both["full_attention"])


def test_block_mask_is_the_same_mask():
    """Whole blocks of 128 tokens, compared with the dense mask."""
    from torch.nn.attention.flex_attention import create_mask

    form = MaskForm("block", False, 20)
    row = pack_sequences(sequences_of(10, 60), 1000, pad_to=form.pad_to)[0]
    assert len(row.input_ids) % 128 == 0
    block = make_mask(form, row, torch.float32, "cpu")
    size = len(row.input_ids)
    dense = create_mask(block.mask_mod, None, None, size, size, device="cpu")[0, 0]
    assert torch.equal(dense, visible(row, 20))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "gemma3", "mistral"])
def test_flex_attention_equals_sdpa(kind):
    device = torch.device("cuda")
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation="sdpa").to(device).eval()
    sequences = sequences_of(11, 60)
    logps = packed_logps(model, sequences, max_tokens_per_row=256)
    logps.sum().backward()
    expected = gradients(model)
    model.set_attn_implementation("flex_attention")
    sharing = check_sharing(model, sequences)
    assert sharing.form is not None
    assert sharing.form.kind == "block"
    found = packed_logps(model, sequences, max_tokens_per_row=256, sharing=sharing)
    torch.testing.assert_close(found, logps, atol=1e-3, rtol=1e-4)
    found.sum().backward()
    for name, gradient in gradients(model).items():
        assert (gradient - expected[name]).norm() < 1e-3 * expected[name].norm()
