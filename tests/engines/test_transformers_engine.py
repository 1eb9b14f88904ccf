"""The decode loop against `model.generate`, against itself row by row, and against the distribution it samples."""

import math
import random
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prefopt.core.errors import PrefoptError
from prefopt.engines import Sampling, transformers_engine
from prefopt.engines.choosing import choose
from prefopt.engines.transformers_engine import TransformersEngine, open_engine
from prefopt.models.load import load_tokenizer
from prefopt.recipes.quickstart.task import prompts as task_prompts

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)
SMALL = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "mistral, window 4": MistralConfig(**SMALL, sliding_window=4),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=32, n_embd=32, n_layer=2, n_head=4, n_positions=40, initializer_range=0.4, eos_token_id=2
    ),
    "mamba (no key-value cache)": MambaConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        initializer_range=0.4,
        eos_token_id=2,
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(BASE)


@pytest.fixture(scope="module")
def base():
    return open_engine(BASE, "auto")


@pytest.fixture(scope="module")
def questions(base):
    return [base.encode(row) for row in task_prompts("test", 12, 5)]


def small_engine(tokenizer, name="llama"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[name])
    return TransformersEngine(model, tokenizer, name)


def random_prompts(count, seed=0, longest=12):
    rng = random.Random(seed)
    return [[1] + [rng.randrange(3, 23) for _ in range(rng.randrange(longest))] for _ in range(count)]


def ids_of(completions):
    return [completion.token_ids for completion in completions]


def by_generate(engine, prompt, limit):
    """Greedy token ids of one prompt alone, by transformers."""
    output = engine.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=limit,
    )
    return tuple(output[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", list(CONFIGS))
def test_greedy_batch_is_generate_row_by_row(tokenizer, name):
    engine = small_engine(tokenizer, name)
    prompts = random_prompts(9)
    found = ids_of(engine.generate(prompts, GREEDY, seed=0))
    assert found == [by_generate(engine, prompt, 12) for prompt in prompts]
    assert len(set(found)) > 4  # the model says different things


def test_greedy_answers_of_the_shipped_model_are_generates(base, questions):
    found = base.generate(questions, Sampling(temperature=0.0, max_new_tokens=64), seed=0)
    assert ids_of(found) == [by_generate(base, question, 64) for question in questions]
    assert {c.finish_reason for c in found} == {"stop"}
    assert len({c.tokens for c in found}) > 3  # rows were dropped at different steps
    assert all(c.token_ids[-1] in base.stops and not set(c.token_ids[:-1]) & base.stops for c in found)
    assert all("A: " in c.text and "</s>" not in c.text for c in found)


def test_models_without_key_value_cache_go_through_generate(tokenizer):
    kinds = {
        name: transformers_engine._has_plain_cache(small_engine(tokenizer, name).model) for name in CONFIGS
    }
    assert [name for name, plain in kinds.items() if not plain] == ["mamba (no key-value cache)"]


def test_generate_fallback_samples_by_seed_and_leaves_global_state_alone(tokenizer):
    engine = small_engine(tokenizer, "mamba (no key-value cache)")
    prompts, hot = random_prompts(6), Sampling(temperature=1.5, top_p=0.9, top_k=9, max_new_tokens=10)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    runs = [ids_of(engine.generate(prompts, hot, seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_sampling_leaves_global_state_alone(tokenizer):
    engine, state = small_engine(tokenizer), torch.get_rng_state()
    engine.generate(random_prompts(4), Sampling(max_new_tokens=8), 3)
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_row_says_depends_on_its_place_and_seed_not_on_its_neighbours(tokenizer):
    engine, hot = small_engine(tokenizer), Sampling(temperature=1.2, max_new_tokens=16)
    prompts = random_prompts(12)
    first = ids_of(engine.generate(prompts, hot, 7))
    assert ids_of(engine.generate(prompts, hot, 7)) == first
    others = random_prompts(12, seed=1)
    mixed = ids_of(engine.generate([*prompts[:6], *others[6:]], hot, 7))
    assert mixed[:6] == first[:6]
    assert ids_of(engine.generate(prompts, hot, 8)) != first


def test_a_shared_prefill_changes_no_answer(tokenizer, monkeypatch):
    engine, hot = small_engine(tokenizer), Sampling(temperature=1.2, max_new_tokens=10)
    rows = [prompt for prompt in random_prompts(3) for _ in range(4)]
    shared = ids_of(engine.generate(rows, hot, 5))
    monkeypatch.setattr(
        transformers_engine, "_distinct", lambda prompts: (list(prompts), list(range(len(prompts))))
    )
    assert ids_of(engine.generate(rows, hot, 5)) == shared


def test_rows_of_one_prompt_get_their_own_answers_and_share_the_prefill(tokenizer):
    engine, prompts = small_engine(tokenizer), random_prompts(2)
    rows = [prompt for prompt in prompts for _ in range(8)]
    shapes = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = ids_of(engine.generate(rows, Sampling(max_new_tokens=10), 0))
    hook.remove()
    assert shapes[0] == (2, max(map(len, prompts)))
    assert len(set(found[:8])) > 4


def test_finished_rows_leave_the_batch(base, questions):
    widths = []
    hook = base.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    base.generate(questions, Sampling(temperature=0.0, max_new_tokens=64), seed=0)
    hook.remove()
    assert widths[0] == len(questions)
    assert widths[-1] < len(questions) / 2
    assert widths == sorted(widths, reverse=True)


def test_length_stops_a_row_at_max_new_tokens(base, questions):
    found = base.generate(questions, Sampling(temperature=0.0, max_new_tokens=5), seed=0)
    assert {(c.finish_reason, c.tokens) for c in found} == {("length", 5)}


def test_a_full_context_stops_a_row(tokenizer):
    engine = small_engine(tokenizer)
    engine.stops = frozenset()
    prompts = [[1] * 38, [1] * 5]
    found = engine.generate(prompts, Sampling(temperature=0.0, max_new_tokens=6), seed=0)
    assert [(c.finish_reason, c.tokens) for c in found] == [("length", 2), ("length", 6)]
    with pytest.raises(PrefoptError, match="prompt of 40 tokens leaves no room"):
        engine.generate([[1] * 40], GREEDY, 0)


def test_every_end_token_of_the_generation_config_stops(tokenizer):
    plain = small_engine(tokenizer)
    prompts = random_prompts(4)
    said = plain.generate(prompts, GREEDY, 0)[0].token_ids
    model = plain.model
    model.generation_config.eos_token_id = [2, said[3]]
    engine = TransformersEngine(model, tokenizer, "two ends")
    found = engine.generate(prompts, GREEDY, 0)[0]
    assert found.token_ids == said[: said.index(said[3]) + 1]
    assert found.finish_reason == "stop"


def test_settings_of_the_checkpoint_do_not_change_samples(tokenizer):
    engine = small_engine(tokenizer, "mamba (no key-value cache)")
    prompts = random_prompts(4)
    expected = ids_of(engine.generate(prompts, GREEDY, 0))
    engine.model.generation_config.repetition_penalty = 5.0
    again = TransformersEngine(engine.model, tokenizer, "penalised")
    assert ids_of(again.generate(prompts, GREEDY, 0)) == expected


def test_nothing_to_write():
    assert open_engine(BASE, "auto").generate([], GREEDY, 0) == []


def test_damaged_weights_are_an_error_line(tokenizer):
    engine = small_engine(tokenizer)
    with torch.no_grad():
        engine.model.lm_head.weight[5] = math.nan
    with pytest.raises(PrefoptError, match="NaN"):
        engine.generate(random_prompts(2), Sampling(), 0)


def test_no_model_directory_is_an_error_line():
    with pytest.raises(PrefoptError, match="--model"):
        open_engine(None, "auto")


# ---- the distribution


def shares_by_warpers(logits, sampling):
    """What transformers would sample from."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return torch.softmax(scores, dim=-1)[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0, top_k=5),
        Sampling(top_p=0.8),
        Sampling(top_p=0.3, top_k=7),
        Sampling(top_p=1e-9),
        Sampling(top_k=1),
        Sampling(top_k=500),
    ],
    ids=str,
)
def test_inversion_gives_the_distribution_of_the_usual_warpers(sampling):
    logits = torch.randn(1, 23, generator=torch.Generator().manual_seed(3)) * 2
    points = 20_000
    # an even grid over [0, 1): each token must get its share of it, up to the two ends of its interval
    noise = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    tokens = choose(logits.expand(points, -1), sampling, noise)
    found = torch.bincount(tokens, minlength=23) / points
    assert torch.allclose(found, shares_by_warpers(logits, sampling).to(found.dtype), atol=1.5 / points)


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999])
def test_top_p_among_the_likeliest_draws_what_sorting_the_whole_vocabulary_draws(top_p, monkeypatch):
    """Flat rows need more than the first few hundred tokens, peaked ones do not: both are in the batch."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(40, 9000, generator=generator) * torch.linspace(0.1, 8.0, 40)[:, None]
    noise = torch.rand(40, dtype=torch.float64, generator=generator)
    fast = choose(logits, Sampling(top_p=top_p), noise)
    monkeypatch.setattr("prefopt.engines.choosing.LIKELY", ())
    assert torch.equal(fast, choose(logits, Sampling(top_p=top_p), noise))


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((3, 8), -math.inf)
    logits[:, 4] = 0.0
    noise = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, Sampling(), noise).tolist() == [4, 4, 4]
    assert choose(logits, Sampling(top_p=0.9), noise).tolist() == [4, 4, 4]


@pytest.mark.parametrize("scale", [1e-30, 1e6])
def test_extreme_temperatures_and_logits_stay_finite(scale):
    logits = torch.tensor([[1.0, 3.0, 2.0]]) * scale
    noise = torch.tensor([0.999], dtype=torch.float64)
    assert choose(logits, Sampling(temperature=1e-40), noise).tolist() == [1]


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_the_name_that_the_model_has_for_it(name):
    """transformers 5.24 calls it `cache` and warns of the old name."""
    model = SimpleNamespace()
    if name == "cache":
        model.forward = lambda input_ids, cache=None, use_cache=None: None
    else:
        model.forward = lambda input_ids, past_key_values=None, use_cache=None: None
    given = transformers_engine._cached(model, "kept")
    assert given == {name: "kept", "use_cache": True}
    model.forward(None, **given)
