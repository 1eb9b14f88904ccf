from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.recipes.quickstart import PROMPTS, build, task


@pytest.mark.parametrize(
    ("expression", "values"),
    [("12+7*3", (19, 57)), ("7*3+12", (21, 33)), ("9-2-3*4", (7, 4, 16)), ("1+1", (2,))],
)
def test_chains_are_evaluated_from_left_to_right(expression: str, values: tuple[int, ...]) -> None:
    chain = task.parse(expression)
    assert chain.values == values
    assert chain.answer == values[-1]
    assert chain.expression == expression


@pytest.mark.parametrize("expression", ["", "12", "12+", "+3", "1/2", "1 + 2", "1--2", "__import__('os')"])
def test_anything_else_is_refused_in_one_line(expression: str) -> None:
    with pytest.raises(PrefoptError, match="not an arithmetic chain"):
        task.parse(expression)


@given(st.integers())
def test_every_drawn_chain_stays_in_the_range_and_survives_its_text(seed: int) -> None:
    chain = task.draw(random.Random(seed))
    assert task.MIN_OPERATIONS <= len(chain.rest) <= task.MAX_OPERATIONS
    assert all(0 <= value <= task.MAX_VALUE for value in (chain.first, *chain.values))
    assert task.parse(chain.expression) == chain


def test_split_shares_cover_the_hash_space() -> None:
    assert sum(task.SPLIT_SHARES.values()) == 100
    rng = random.Random(0)
    counts = dict.fromkeys(task.SPLIT_SHARES, 0)
    for _ in range(4000):
        counts[task.split_of(task.draw(rng).expression)] += 1
    for split, share in task.SPLIT_SHARES.items():
        assert abs(counts[split] / 40 - share) < 4  # five standard errors at most


def test_the_streams_of_two_splits_never_meet() -> None:
    streams = {
        split: {chain.expression for chain in itertools.islice(task.chains(split, seed=0), 1500)}
        for split in task.SPLIT_SHARES
    }
    for one, other in itertools.combinations(streams, 2):
        assert not streams[one] & streams[other]


def test_an_unknown_split_names_the_nearest() -> None:
    with pytest.raises(PrefoptError, match="did you mean 'tuning'"):
        next(task.chains("tunning", 0))


def test_prompts_are_seeded_and_distinct() -> None:
    rows = task.prompts("test", 300, seed=1)
    assert rows == task.prompts("test", 300, seed=1)
    assert rows != task.prompts("test", 300, seed=2)
    assert len({row["prompt"][0]["content"] for row in rows}) == 300
    assert rows[:100] == task.prompts("test", 100, seed=1)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("12+7=19;19*3=57\nA: 57", 57),
        ("A: 4", 4),
        ("A: -4\n", -4),
        ("1+1=2", None),
        ("A: 4 or 5", None),
        ("", None),
    ],
)
def test_extraction_reads_the_closing_answer(completion: str, answer: int | None) -> None:
    assert task.extract_answer(completion) == answer


@pytest.mark.parametrize("split", list(PROMPTS))
def test_the_shipped_prompt_files_are_what_the_generator_gives(split: str) -> None:
    rows = [json.loads(line) for line in PROMPTS[split].read_text(encoding="utf-8").splitlines()]
    assert rows == task.prompts(split, build.PROMPT_COUNTS[split], build.SEED)
    for row in rows:
        expression = row["prompt"][0]["content"]
        assert task.split_of(expression) == split
        assert row["answer"] == str(task.parse(expression).answer)


def test_the_test_file_is_large_enough_for_the_headline() -> None:
    assert build.PROMPT_COUNTS["test"] >= 1000
