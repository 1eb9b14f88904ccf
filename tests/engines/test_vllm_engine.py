"""The vLLM engine against a fake module with vLLM's documented interface (`LLM`, `SamplingParams`, request outputs).

After docs.vllm.ai, "Generative models" and `vllm.SamplingParams`, `vllm.outputs`: prompts are `{"prompt_token_ids": ids}`,
one SamplingParams per prompt, outputs in the order of the prompts; token_ids hold the stop token.
"""

import random
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.engines import EngineOptions, Sampling, VllmSettings, open_engine
from prefopt.models.load import load_tokenizer
from prefopt.recipes.quickstart.task import prompts as task_prompts
from prefopt.stages.sample.sample import sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        assert self.top_k == -1 or self.top_k >= 0
        assert 0 < self.top_p <= 1


@dataclass
class LLM:
    """Answers "A: d" with d from the request's seed; `calls` keeps what `generate` was given."""

    model: str
    dtype: str = "auto"
    seed: int = 0
    generation_config: str = "auto"
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    enforce_eager: bool = False
    finish: str | None = None
    calls: list = field(default_factory=list)

    def __post_init__(self):
        self.tokenizer = load_tokenizer(Path(self.model))
        limit = self.max_model_len or 512
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=limit))
        random.seed(self.seed)  # as vLLM does in its own process
        torch.manual_seed(self.seed)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert not use_tqdm
        assert len(prompts) == len(sampling_params)
        self.calls.append((prompts, sampling_params))
        torch.rand(3)
        return [self._one(i, *asked) for i, asked in enumerate(zip(prompts, sampling_params, strict=True))]

    def _one(self, index, prompt, params):
        digit = 0 if params.temperature == 0 else random.Random(params.seed).randrange(10)
        ids = self.tokenizer(f"A: {digit}", add_special_tokens=False)["input_ids"]
        ids = [*ids, params.stop_token_ids[0]]
        cut = ids[: params.max_tokens]
        reason = self.finish or ("stop" if cut == ids else "length")
        logp = None if params.logprobs is None else -0.5 * len(cut)
        first = SimpleNamespace(
            index=0,
            text="",
            token_ids=tuple(cut),
            cumulative_logprob=logp,
            logprobs=None,
            finish_reason=reason,
        )
        return SimpleNamespace(
            request_id=str(index), prompt_token_ids=prompt["prompt_token_ids"], outputs=[first]
        )


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.delitem(sys.modules, "prefopt.engines.vllm_engine", raising=False)
    yield module
    sys.modules.pop("prefopt.engines.vllm_engine", None)


def opened(**settings):
    return open_engine("vllm", BASE, "bfloat16", EngineOptions(vllm=VllmSettings(**settings)))


def test_model_is_loaded_with_our_settings_and_its_own_sampling_left_aside():
    engine = opened(tensor_parallel_size=2, max_model_len=64, extra={"enforce_eager": True})
    llm = engine.llm
    assert (llm.model, llm.dtype, llm.tensor_parallel_size, llm.enforce_eager) == (
        str(BASE),
        "bfloat16",
        2,
        True,
    )
    assert (llm.generation_config, llm.trust_remote_code) == ("vllm", False)
    assert (engine.max_tokens, engine.name) == (64, "base")


def test_requests_are_token_ids_with_a_seed_each():
    engine = opened()
    prompts = [engine.encode({"prompt": [{"role": "user", "content": f"1+{i}+2"}]}) for i in range(3)]
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=0, max_new_tokens=30)
    runs = [engine.generate(prompts, sampling, seed) for seed in (5, 5, 6)]
    asked, params = engine.llm.calls[0]
    assert asked == [{"prompt_token_ids": prompt} for prompt in prompts]
    assert {(p.temperature, p.top_p, p.top_k, p.max_tokens, p.logprobs) for p in params} == {
        (0.7, 0.9, -1, 30, None)
    }
    assert all(p.stop_token_ids == sorted(engine.stops) for p in params)
    assert len({p.seed for p in params}) == 3
    assert runs[0] == runs[1]
    assert [p.seed for p in engine.llm.calls[0][1]] == [p.seed for p in engine.llm.calls[1][1]]
    assert not {p.seed for p in params} & {p.seed for p in engine.llm.calls[2][1]}
    for answer in runs[0]:
        assert answer.text.startswith("A: ")
        assert (answer.finish_reason, answer.logp) == ("stop", None)
        assert answer.tokens == len(answer.token_ids)
        assert answer.token_ids[-1] in engine.stops
    assert engine.generate([], sampling, 0) == []


def test_lengths_logprobs_and_full_contexts():
    engine = opened(max_model_len=20)
    prompt = engine.encode({"prompt": [{"role": "user", "content": "1+2+3"}]})
    (cut,) = engine.generate([prompt], Sampling(max_new_tokens=2, logprobs=True), 0)
    assert (cut.finish_reason, cut.tokens, cut.logp) == ("length", 2, -1.0)
    engine.generate([prompt], Sampling(max_new_tokens=1000), 0)
    assert engine.llm.calls[-1][1][0].max_tokens == 20 - len(prompt)
    with pytest.raises(PrefoptError, match="no room"):
        engine.generate([prompt * 3], Sampling(), 0)


def test_global_random_state_stays():
    torch.manual_seed(3)
    before = torch.get_rng_state()  # Python's own is drawn from by the type checks of the tests
    engine = opened()
    engine.generate([[1, 2, 3]], Sampling(), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_failures_are_error_lines(monkeypatch, fake_vllm):
    engine = opened()
    engine.llm.finish = "abort"
    with pytest.raises(PrefoptError, match="vllm gave no answer to request 0"):
        engine.generate([[1, 2]], Sampling(), 0)
    with pytest.raises(PrefoptError, match="--model"):
        open_engine("vllm", None)
    with pytest.raises(PrefoptError, match="vllm cannot load it"):
        opened(extra={"no_such_argument": 1})
    monkeypatch.setitem(sys.modules, "vllm", None)
    sys.modules.pop("prefopt.engines.vllm_engine", None)
    with pytest.raises(PrefoptError, match=r"needs the package 'vllm'.*prefopt\[vllm\]"):
        opened()


def test_stage_keeps_the_samplers_logprobs_where_asked():
    rows = [{**row, "prompt_id": row["id"]} for row in task_prompts("tuning", 3, 1)]
    config = parse_config(SampleConfig, {"engine": "vllm", "n": 2, "logprobs": True}, "recipe")
    found = rows_of(sample(make_table(rows), config, Context(seed=1, model=BASE)).table)
    assert [row["sampled_logps"] for row in found] == [-0.5 * row["completion_tokens"] for row in found]
    plain = sample(make_table(rows), SampleConfig(engine="vllm", n=2), Context(seed=1, model=BASE)).table
    assert "sampled_logps" not in plain.column_names
    assert plain["completion"][:] == [row["completion"] for row in found]
