"""The table of engines, seeds of batches, and the fake engine."""

import json
import subprocess
import sys

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.engines import ENGINES, Sampling, batch_seed, open_engine
from prefopt.engines.fake import FakeEngine


def test_unknown_engine_names_the_nearest():
    with pytest.raises(PrefoptError, match="did you mean 'transformers'"):
        open_engine("transformer", None)


def test_missing_package_tells_how_to_install(monkeypatch):
    monkeypatch.setitem(ENGINES, "absent", ("package_that_is_not_there", "pip install 'prefopt[absent]'"))
    with pytest.raises(
        PrefoptError, match=r"needs the package 'package_that_is_not_there'.*prefopt\[absent\]"
    ):
        open_engine("absent", None)


def test_engines_are_imported_late():
    code = "import sys, json, prefopt.engines, prefopt.stages.sample.sample; print(json.dumps([m for m in ('torch', 'transformers') if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_batch_seeds_differ_by_stage_seed_pass_and_batch():
    seeds = {batch_seed(s, label, b) for s in range(5) for label in ("sampled", "greedy") for b in range(20)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert batch_seed(3, "sample", 7) == batch_seed(3, "sample", 7)


def test_fake_engine_is_a_function_of_prompts_and_seed():
    engine = FakeEngine({"hi": ["A: 1", "A: 2", "A: 3"]})
    prompts = [
        engine.encode({"prompt": "hi"}),
        engine.encode({"prompt": [{"role": "user", "content": "else"}]}),
    ]
    runs = [engine.generate(prompts * 20, Sampling(), seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert {c.text for c in runs[0][::2]} == {"A: 1", "A: 2", "A: 3"}
    assert engine.calls == [(40, 0), (40, 0), (40, 1)]
    (greedy, _) = engine.generate(prompts, Sampling(temperature=0), 5)
    assert greedy.text == "A: 1"


def test_fake_engine_cuts_at_max_new_tokens():
    engine = FakeEngine({"hi": ["A: 12345"]})
    (cut,) = engine.generate([engine.encode({"prompt": "hi"})], Sampling(max_new_tokens=4), 0)
    assert (cut.text, cut.tokens, cut.finish_reason) == ("A: 1", 4, "length")
    (whole,) = engine.generate([engine.encode({"prompt": "hi"})], Sampling(max_new_tokens=9), 0)
    assert (whole.tokens, whole.finish_reason) == (9, "stop")
