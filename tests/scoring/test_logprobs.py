"""Chunked log-probs of answers against the model's own full logits: values, gradients, batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
    RobertaConfig,
)

from prefopt.core.errors import PrefoptError
from prefopt.scoring import logprobs
from prefopt.scoring.body import unwrap
from prefopt.scoring.logprobs import (
    check_model,
    completion_logps,
    head_logps,
    make_batch,
    score,
    token_logps,
)
from prefopt.scoring.shared import check_sharing

VOCAB = 97
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # sharp enough that a wrong position, mask or scale shows
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "qwen3": lambda: Qwen3Config(**SMALL),
    "gemma2": lambda: Gemma2Config(
        **SMALL, final_logit_softcapping=3.0, attn_logit_softcapping=20.0, sliding_window=4
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SMALL, final_logit_softcapping=5.0, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "cohere": lambda: CohereConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**SMALL, logits_scaling=4.0, embedding_multiplier=2.0),
    "opt": lambda: OPTConfig(
        vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16, init_std=0.3, dropout=0.0, pad_token_id=0,
    ),
}  # fmt: skip
MODELS: dict[str, torch.nn.Module] = {}


def model_of(kind: str) -> torch.nn.Module:
    if kind not in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            MODELS[kind] = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    MODELS[kind].zero_grad()
    return MODELS[kind]


def sequences_of(seed: int, count: int = 6) -> list[tuple[list[int], list[int]]]:
    draw = torch.Generator().manual_seed(seed)
    sizes = [torch.randint(1, 16, (2,), generator=draw).tolist() for _ in range(count)]
    return [tuple(torch.randint(3, VOCAB, (n,), generator=draw).tolist() for n in pair) for pair in sizes]


def plain(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Per-token log-probs by the model's own logits, one sequence at a time."""
    ids = torch.tensor([prompt + answer])
    logps = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return logps[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_equal_to_full_logits_for_every_batch_size(kind, size):
    model, sequences = model_of(kind), sequences_of(1)
    with torch.no_grad():
        expected = [plain(model, *sequence) for sequence in sequences]
        for start in range(0, len(sequences), size):
            found = token_logps(model, sequences[start : start + size], chunk_tokens=5)
            for ours, theirs in zip(found, expected[start : start + size], strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradients_equal_those_of_full_logits(kind):
    model, sequences = model_of(kind), sequences_of(2, 4)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0])

    (completion_logps(model, sequences, chunk_tokens=4) * weights).sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (torch.stack([plain(model, *s).sum() for s in sequences]) * weights).sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert ours.keys() == theirs.keys()
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    difference = torch.stack([(ours[name] - theirs[name]).norm() for name in theirs]).norm()
    assert difference <= 1e-5 * norm


@given(seed=st.integers(0, 10**6), chunk=st.integers(1, 40), keep=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_chunks_and_company_do_not_matter(seed, chunk, keep):
    model, sequences = model_of("qwen3"), sequences_of(seed, 5)
    with torch.no_grad():
        alone = completion_logps(model, [sequences[keep]])
        among = completion_logps(model, sequences, chunk_tokens=chunk)
    torch.testing.assert_close(among[keep], alone[0], atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_other_rows_and_padding_have_no_influence_at_all(kind):
    """Change a neighbour and the padding id: the row's value does not change by a bit."""
    model = model_of(kind)
    first, other = sequences_of(3, 2)
    changed = ([5] * len(other[0]), [6] * len(other[1]))
    with torch.no_grad():
        values = [
            logprobs.batch_logps(model, make_batch([first, company], pad_id=pad))[: len(first[1])]
            for company, pad in [(other, 0), (changed, 0), (other, 9)]
        ]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@pytest.mark.parametrize("batch_tokens", [1, 17, 60, 10_000])
def test_score_keeps_the_order_for_every_budget(batch_tokens):
    model, sequences = model_of("llama"), sequences_of(4, 9)
    expected = [plain(model, *s).sum().item() for s in sequences]
    model.train()
    found = score(model, sequences, batch_tokens)
    assert model.training
    model.eval()
    assert found == pytest.approx(expected, abs=1e-4)
    assert score(model, [], batch_tokens) == []


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_batches_hold_every_sequence_once_within_the_budget(sizes, batch_tokens):
    sequences = [([1], [2] * size) for size in sizes]
    batches = logprobs._batches_by_length(sequences, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(sizes[i] + 1 for i in batch) <= batch_tokens


def test_hand_value_of_a_uniform_model():
    """A head of zeros gives every token probability 1/V."""
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    torch.nn.init.zeros_(model.lm_head.weight)
    logps = completion_logps(model, [([3, 4], [5, 6, 7]), ([3], [8])])
    expected = -torch.log(torch.tensor(float(VOCAB))) * torch.tensor([3.0, 1.0])
    torch.testing.assert_close(logps, expected)


def test_sums_are_fp32_for_a_bf16_model():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).to(torch.bfloat16)
    assert completion_logps(model, sequences_of(5, 2)).dtype == torch.float32
    assert check_model(model, sequences_of(5, 1)[0]) < 0.05


def test_logits_never_exist_whole():
    """Neither direction forms more than chunk_tokens rows of logits."""
    model = model_of("llama")
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[0]))
    hidden = torch.randn(50, 32, requires_grad=True)
    saved: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logps = head_logps(model, hidden, torch.arange(50) % VOCAB, chunk_tokens=8)
    logps.sum().backward()
    hook.remove()
    assert max(rows) == 8
    assert len(rows) == 14  # seven chunks, each computed anew for its gradient
    # what waits for the backward pass: hidden states, targets and the weight, no row of logits
    assert (8, 32) in saved
    assert not [shape for shape in saved if shape[-1:] == (VOCAB,) and shape[0] != 32]


def test_empty_sides_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        make_batch([([], [1])])
    with pytest.raises(ValueError, match="at least one"):
        make_batch([([1], [])])
    with pytest.raises(ValueError, match="at least one"):
        make_batch([])


@pytest.mark.parametrize("kind", CONFIGS)
def test_start_check_passes_for_known_models(kind):
    assert check_model(model_of(kind), sequences_of(6, 1)[0]) < 1e-5


def thrice(model):
    """What a head that is not known may do: the model's own logits are three times those of its head."""
    own = model.forward

    def scaled(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = output.logits * 3
        return output

    model.forward = scaled
    return model


UNKNOWN = {
    # its class looks for its body under a name that it does not have
    "llama4": lambda: Llama4TextConfig(
        **SMALL, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=16, num_experts_per_tok=1
    ),
    # a dense layer between body and head
    "bert": lambda: BertConfig(**SMALL, is_decoder=True),
    # positions counted from the padding token
    "roberta": lambda: RobertaConfig(**SMALL, is_decoder=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*UNKNOWN, "head"])
def test_a_model_that_is_not_known_runs_by_its_own_forward_pass(kind, caplog):
    torch.manual_seed(0)
    config = CONFIGS["llama"]() if kind == "head" else UNKNOWN[kind]()
    model = AutoModelForCausalLM.from_config(config).eval()
    model = thrice(model) if kind == "head" else model
    sequences = sequences_of(7, 4)
    assert check_model(model, sequences[0]) < 1e-4
    assert caplog.text.count("run by their own forward pass, one sequence at a time") == 1
    assert check_sharing(model, sequences).form is None
    with torch.no_grad():
        own = [plain(model, *sequence).sum() for sequence in sequences]
        for found in (completion_logps(model, sequences), torch.tensor(score(model, sequences, 40))):
            torch.testing.assert_close(found, torch.stack(own), atol=1e-4, rtol=1e-5)
    completion_logps(model, sequences).sum().backward()
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_a_model_that_differs_from_itself_is_refused():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    own = model.forward
    calls = iter(range(100))

    def other_each_time(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = output.logits * (1 + next(calls))
        return output

    model.forward = other_each_time
    with pytest.raises(PrefoptError, match="'llama' are not supported: two forward passes differ"):
        check_model(model, sequences_of(7, 1)[0])


def test_factor_of_a_multiplying_model():
    """HyperCLOVA X multiplies by the key by which Granite divides."""
    config = GraniteConfig(**SMALL, logits_scaling=4.0)
    one = torch.ones(3)
    assert logprobs.head_scale(config)(one).tolist() == [0.25] * 3
    config.model_type = "hyperclovax"
    assert logprobs.head_scale(config)(one).tolist() == [4.0] * 3


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)  # peft asks for the old name
def test_adapters_count_and_wrappers_are_looked_through():
    from peft import LoraConfig, get_peft_model

    inner = AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    adapted = get_peft_model(inner, config)
    assert unwrap(adapted) is inner
    sequences = sequences_of(8, 3)
    with torch.no_grad():
        with_adapter = completion_logps(adapted, sequences)
        expected = torch.stack([plain(adapted, *s).sum() for s in sequences])
        with adapted.disable_adapter():
            without = completion_logps(adapted, sequences)
    torch.testing.assert_close(with_adapter, expected, atol=1e-4, rtol=1e-5)
    assert (with_adapter - without).abs().max() > 1e-2
    completion_logps(adapted, sequences, chunk_tokens=4).sum().backward()
    assert all(p.grad is not None for n, p in adapted.named_parameters() if "lora_" in n)
