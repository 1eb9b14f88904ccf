"""Examples on a file are the examples that were put there, whatever their number."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from training_worker import make_examples

from prefopt.training import example_file
from prefopt.training.collate import Example, compact
from prefopt.training.example_file import ExampleFile


def plain(example):
    answers = {role: ids.tolist() for role, ids in example.answers.items()}
    return (
        example.id,
        example.prompt.tolist(),
        answers,
        dict(example.reference),
        example.weight,
        example.label,
    )


def mixed():
    pairs = [
        replace(row, reference={"chosen": -1.5 * k, "chosen_prefix": 0.25}, weight=0.1 * k)
        for k, row in enumerate(make_examples(7))
    ]
    single = Example(
        "ü", compact([3]), {"completion": compact([4, 5]), "kl": compact([6])}, {"kl": -2.0}, 1.0, False
    )
    return [*pairs, single, replace(single, label=True, answers={"completion": compact([9])})]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_everything_comes_back_in_order(monkeypatch, batch):
    monkeypatch.setattr(example_file, "BATCH_ROWS", batch)
    examples = mixed()
    stored = ExampleFile(iter(examples))
    assert len(stored) == len(examples)
    assert [plain(e) for e in stored] == [plain(e) for e in examples]
    assert plain(stored[-1]) == plain(examples[-1])
    assert [plain(e) for e in stored[2:5]] == [plain(e) for e in examples[2:5]]
    assert stored[0].prompt.dtype == np.int32
    assert math.isclose(stored[3].weight, 0.3)
    with pytest.raises(IndexError):
        stored[len(examples)]


def test_none_is_empty():
    stored = ExampleFile([])
    assert len(stored) == 0
    assert not stored
    assert list(stored) == []


def test_python_holds_one_batch_whatever_the_number(monkeypatch):
    monkeypatch.setattr(example_file, "BATCH_ROWS", 128)
    ids = np.arange(50)

    def peak(count):
        tracemalloc.start()
        try:
            fresh = (Example(str(k), compact(ids), {"chosen": compact(ids)}, {}) for k in range(count))
            assert len(ExampleFile(fresh)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(256)
    # an example takes over a thousand bytes, the views of a batch of 4096 two per example
    assert (peak(3_200) - peak(640)) / 2_560 < 100
