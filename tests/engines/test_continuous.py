"""Continuous batching of transformers: the same answers where sampling is certain, whole batches, no traces left."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.engines import EngineOptions, Sampling, open_engine

BASE = Path(str(resources.files("prefopt.recipes"))) / "quickstart" / "base"


@pytest.fixture(scope="module")
def engines():
    return [
        open_engine("transformers", BASE, "auto", EngineOptions(continuous_batching=given))
        for given in (False, True)
    ]


def test_greedy_answers_are_those_of_the_fixed_batches(engines):
    plain, continuous = engines
    prompts = [plain.encode({"prompt": [{"role": "user", "content": f"{i}+2+{i}"}]}) for i in range(5)]
    sampling = Sampling(temperature=0.0, max_new_tokens=30)
    kept = torch.get_rng_state()
    before = continuous.model.config._attn_implementation
    answers = [engine.generate(prompts, sampling, 1) for engine in (plain, continuous)]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]
    assert [a.finish_reason for a in answers[0]] == [a.finish_reason for a in answers[1]]
    assert torch.equal(torch.get_rng_state(), kept)
    assert continuous.model.config._attn_implementation == before


def test_sampled_answers_end_like_answers(engines):
    engine = engines[1]
    prompt = engine.encode({"prompt": [{"role": "user", "content": "3+4+5"}]})
    answers = engine.generate([prompt] * 6, Sampling(temperature=1.0, max_new_tokens=12), 1)
    assert len(answers) == 6
    for answer in answers:
        assert 1 <= answer.tokens <= 12
        assert (answer.token_ids[-1] in engine.stops) == (answer.finish_reason == "stop")


def test_what_cannot_be_done_is_one_line(engines, monkeypatch):
    engine = engines[1]

    def refuse(**_):
        raise ValueError("no paged attention\nfor this model")

    monkeypatch.setattr(engine.model, "generate_batch", refuse)
    with pytest.raises(
        PrefoptError, match=r"no paged attention\); set sample.continuous_batching false"
    ) as caught:
        engine.generate([[1, 2, 3]], Sampling(max_new_tokens=3), 0)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(engine.model, "generate_batch", lambda **_: {})
    with pytest.raises(PrefoptError, match="1 of 1 prompts came back without"):
        engine.generate([[1, 2, 3]], Sampling(max_new_tokens=3), 0)
