"""What of a finished stage is worth a warning, from manifests."""

import pytest

from prefopt.stages.concerns import concerns


def reference(truncated, **more):
    return {"stage": "reference", "rows_in": 20, "rows_out": 20,
            "quality": {"pairs": 20, "truncated": truncated, "max_length": 64, **more}}  # fmt: skip


def sample(share):
    return {"stage": "sample", "quality": {"completions": 40, "finish_length_share": share}}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"stage": "rank", "rows_in": 20, "dropped": {"tie": 2}}, []),
        ({"stage": "rank", "rows_in": 20, "dropped": {"tie": 3}}, ["rank dropped 3 of 20 rows (15.0%): tie 3"]),
        ({"stage": "weight", "rows_in": 20, "dropped": {"not selected": 12}}, []),
        (reference(2), []),
        (reference(3), ["the answers of 3 of 20 rows (15.0%) were cut at max_length 64"]),
        (reference(0, kl_of_one_prompt=True), ["all rows ask one prompt"]),
        (sample(0.1), []),
        (sample(None), []),
        (sample(0.125), ["12.5% of 40 completions were cut at max_new_tokens"]),
        ({"stage": "sample", "quality": {"empty_warning": "sample: 50% are empty"}}, ["50% are empty"]),
        (
            {"stage": "evaluate", "quality": {"completions": {"greedy": {"completions": 8, "finish_length_share": 0.5}}}},
            ["evaluate, greedy: 50.0% of 8 completions were cut"],
        ),
        ({}, []),
        ({"stage": "reference", "quality": {}}, []),  # of another version
    ],
)  # fmt: skip
def test_concerns(manifest, words):
    said = concerns(manifest)
    assert len(said) == len(words)
    for text, word in zip(said, words, strict=True):
        assert word in text
