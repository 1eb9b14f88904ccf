"""The writers whose answers the base model imitates: half careful, half flawed, as real corpora are.

A writer is a pure function (chain, rng) -> completion. The flaws differ in kind, because they ask different things
of preference training: guessing is a style that is sometimes lucky, stopping early and skipping a step are habits,
a slip is an accident, and multiplying first is a systematic mistake that is right on many chains.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from prefopt.recipes.quickstart.task import MAX_VALUE, Chain, apply

Writer = Callable[[Chain, random.Random], str]


def compose(steps: list[str], answer: int) -> str:
    """A completion from its written steps (possibly none) and its final answer."""
    return (";".join(steps) + "\n" if steps else "") + f"A: {answer}"


def write_steps(first: int, rest: tuple[tuple[str, int], ...]) -> tuple[list[str], int]:
    """The steps from left to right as text, and the value they end with."""
    steps, value = [], first
    for operator, operand in rest:
        result = apply(value, operator, operand)
        steps.append(f"{value}{operator}{operand}={result}")
        value = result
    return steps, value


def careful(chain: Chain, rng: random.Random) -> str:
    """Every step written, every step right."""
    return compose(*write_steps(chain.first, chain.rest))


def guesser(chain: Chain, rng: random.Random) -> str:
    """No steps; the answer is right with probability 1/operations, else near the truth."""
    if rng.random() < 1 / len(chain.rest):
        return compose([], chain.answer)
    return compose([], _miss(chain.answer, rng))


def stopper(chain: Chain, rng: random.Random) -> str:
    """Right steps, but the last one is left out and the value before it is given as the answer."""
    return compose(*write_steps(chain.first, chain.rest[:-1]))


def slipper(chain: Chain, rng: random.Random) -> str:
    """One step, anywhere, has a wrong result; the steps after it go on from there."""
    slip = rng.randrange(len(chain.rest))
    steps, value = write_steps(chain.first, chain.rest[:slip])
    operator, operand = chain.rest[slip]
    wrong = _miss(apply(value, operator, operand), rng)
    steps.append(f"{value}{operator}{operand}={wrong}")
    tail, answer = write_steps(wrong, chain.rest[slip + 1 :])
    return compose(steps + tail, answer)


def _miss(value: int, rng: random.Random) -> int:
    """A wrong number close to `value`, within 0..MAX_VALUE."""
    options = [value + offset for offset in (-10, -2, -1, 1, 2, 10) if 0 <= value + offset <= MAX_VALUE]
    return rng.choice(options)


@dataclass(frozen=True)
class Share:
    """A writer and the share of the corpus that it writes."""

    writer: Writer
    share: float


WRITERS: dict[str, Share] = {
    "careful": Share(careful, 0.50),
    "guesser": Share(guesser, 0.26),
    "stopper": Share(stopper, 0.14),
    "slipper": Share(slipper, 0.10),
}


def write(chain: Chain, rng: random.Random) -> tuple[str, str]:
    """The name of a writer drawn by share, and what that writer answers."""
    names = list(WRITERS)
    name = rng.choices(names, [WRITERS[name].share for name in names])[0]
    return name, WRITERS[name].writer(chain, rng)
