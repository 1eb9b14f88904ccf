from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.recipes.quickstart import task, writers
from prefopt.recipes.quickstart.task import Chain

CHAINS = st.integers().map(lambda seed: task.draw(random.Random(seed)))
RNGS = st.integers().map(random.Random)


def read_steps(completion: str) -> list[tuple[int, str, int, int]]:
    """The written steps as (left, operator, right, result)."""
    body = completion.rpartition("A: ")[0].strip()
    steps = []
    for step in filter(None, body.split(";")):
        left, result = step.split("=")
        term = task.re.fullmatch(r"(-?\d+)([+\-*])(\d+)", left)
        assert term, step
        steps.append((int(term[1]), term[2], int(term[3]), int(result)))
    return steps


def wrong_steps(completion: str) -> int:
    return sum(
        task.apply(left, operator, right) != result
        for left, operator, right, result in read_steps(completion)
    )


def test_the_documented_example() -> None:
    assert writers.careful(task.parse("12+7*3"), random.Random(0)) == "12+7=19;19*3=57\nA: 57"


@given(CHAINS, RNGS)
def test_the_careful_writer_is_always_right(chain: Chain, rng: random.Random) -> None:
    completion = writers.careful(chain, rng)
    assert task.extract_answer(completion) == chain.answer
    assert [(operator, right) for _, operator, right, _ in read_steps(completion)] == list(chain.rest)
    assert wrong_steps(completion) == 0


@given(CHAINS, RNGS)
def test_the_guesser_writes_no_steps(chain: Chain, rng: random.Random) -> None:
    assert read_steps(writers.guesser(chain, rng)) == []


def test_the_guesser_is_right_as_often_as_declared() -> None:
    rng = random.Random(0)
    chain = task.parse("12+7*3-9")
    right = sum(task.extract_answer(writers.guesser(chain, rng)) == chain.answer for _ in range(3000))
    assert right / 3000 == pytest.approx(1 / 3, abs=0.04)


@given(CHAINS, RNGS)
def test_the_stopper_leaves_out_the_last_step_alone(chain: Chain, rng: random.Random) -> None:
    completion = writers.stopper(chain, rng)
    assert len(read_steps(completion)) == len(chain.rest) - 1
    assert wrong_steps(completion) == 0
    assert task.extract_answer(completion) == chain.values[-2]


@given(CHAINS, RNGS)
def test_the_slipper_gets_exactly_one_step_wrong(chain: Chain, rng: random.Random) -> None:
    completion = writers.slipper(chain, rng)
    steps = read_steps(completion)
    assert [(operator, right) for _, operator, right, _ in steps] == list(chain.rest)
    assert wrong_steps(completion) == 1
    assert [left for left, *_ in steps[1:]] == [result for *_, result in steps[:-1]]
    assert task.extract_answer(completion) == steps[-1][-1]


def test_half_of_the_corpus_is_careful() -> None:
    shares = {name: entry.share for name, entry in writers.WRITERS.items()}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["careful"] == 0.5
    rng = random.Random(0)
    stream = itertools.islice(task.chains("corpus", 0), 4000)
    names = [writers.write(chain, rng)[0] for chain in stream]
    for name, share in shares.items():
        assert names.count(name) / 4000 == pytest.approx(share, abs=0.04)


def test_writing_is_a_pure_function_of_chain_and_seed() -> None:
    chain = task.parse("12+7*3")
    assert [writers.write(chain, random.Random(7)) for _ in range(3)] == [
        writers.write(chain, random.Random(7))
    ] * 3
