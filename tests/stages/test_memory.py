"""Memory that runs out in a stage is one line with the settings that help and what they are now."""

from __future__ import annotations

import re

import pytest
import torch

from prefopt.core.errors import PrefoptError
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.memory import memory_told
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.stages.sample.settings import SampleConfig
from prefopt.stages.train.settings import TrainConfig
from prefopt.tools.reward.settings import RewardConfig

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


def told(name, config, error):
    with pytest.raises(PrefoptError) as caught, memory_told(name, config):
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("train", TrainConfig(), [r"train.max_tokens_per_row (now null: 768 on a CPU, 16384 on a GPU)",
                                  "train.max_length (now 1024)", "train.gradient_checkpointing: true"]),
        ("train", TrainConfig(pairs_per_micro_batch=4, max_length=99, gradient_checkpointing=True),
         ["train.pairs_per_micro_batch (now 4)", "train.max_length (now 99)"]),
        ("reference", ReferenceConfig(batch_tokens=512), ["reference.batch_tokens (now 512)", "reference.max_length"]),
        ("sample", SampleConfig(batch_size=7), ["sample.batch_size (now 7)", "sample.max_new_tokens (now 256)"]),
        ("evaluate", EvaluateConfig(batch_tokens=5), ["evaluate.batch_tokens (now 5)", "evaluate.max_length"]),
        ("train-reward", RewardConfig(), ["train-reward.pairs_per_micro_batch (now null", "train-reward.max_length"]),
    ],
)  # fmt: skip
def test_the_line_names_the_settings_to_lower(name, config, words):
    line = told(name, config, torch.OutOfMemoryError(CUDA))
    assert line.startswith(f"{name}: out of memory (GPU: Tried to allocate 2.00 GiB)")
    assert all(word in line for word in words), line
    if getattr(config, "gradient_checkpointing", False):
        assert "gradient_checkpointing" not in line, "what is set already does not help"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                     "tried to allocate 8000 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)  # fmt: skip
def test_memory_of_the_cpu_too(error):
    assert re.match(r"train: out of memory \(CPU", told("train", TrainConfig(), error))


def test_torch_says_what_is_looked_for():
    with pytest.raises(PrefoptError, match="out of memory"), memory_told("train", TrainConfig()):
        torch.empty(2**58, dtype=torch.uint8)


@pytest.mark.parametrize("error", [PrefoptError("bad"), ValueError("out of memory"), RuntimeError("shape")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)), memory_told("train", TrainConfig()):
        raise error
