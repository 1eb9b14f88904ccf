"""Warnings of small trainings, by counts alone."""

import pytest

from prefopt.stages.train.few import few_rows


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"train": 500, "eval_prompts": 50}, []),
        ({"train": 500, "eval_prompts": 0}, []),
        ({"train": 49, "eval_prompts": 10}, ["only 49 pairs"]),
        ({"train": 50, "eval_prompts": 9}, ["only 9 held-out prompts"]),
        ({"train": 60, "eval_prompts": 20, "desired": 60}, ["all 60 labels are alike (desired)"]),
        ({"train": 12, "eval_prompts": 1, "desired": 0}, ["only 12 rows", "only 1 held-out", "(undesired)"]),
        ({"train": 60, "eval_prompts": 20, "desired": 59}, []),
    ],
)
def test_few_rows_are_told(counts, words):
    said = few_rows(counts)
    assert len(said) == len(words)
    for text, word in zip(said, words, strict=True):
        assert word in text
