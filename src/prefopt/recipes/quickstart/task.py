"""The quickstart's task: chains of whole numbers, evaluated strictly from left to right.

    Q:12+7*3        the prompt, as the chat template renders the user message "12+7*3"
    12+7=19;19*3=57 the written steps
    A: 57           the final answer, which a verifier can check

Every intermediate value lies in 0..99, so that a very small model can learn the arithmetic. Multiplication does
not bind tighter: 12+7*3 is 57. Each expression belongs to exactly one split, decided by a hash of its text: the
corpus of the base model and the train, tuning and test prompts are disjoint by construction, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefopt.core.errors import PrefoptError, nearest

MAX_VALUE = 99  # two digits: within reach of a model of 0.8 M parameters
MAX_ADDEND = 49
MAX_FACTOR = 9
MIN_OPERATIONS, MAX_OPERATIONS = 2, 4

# Split -> its share of all expressions, in hundredths of the hash space.
SPLIT_SHARES = {"corpus": 50, "train": 20, "tuning": 10, "test": 20}

_EXPRESSION = re.compile(r"\d+(?:[+\-*]\d+)+")
_ANSWER = re.compile(r"A: ?(-?\d+)\s*$")


@dataclass(frozen=True)
class Chain:
    """An arithmetic chain: `first`, then (operator, operand) pairs applied from left to right."""

    first: int
    rest: tuple[tuple[str, int], ...]

    @property
    def expression(self) -> str:
        """The chain as text, for example "12+7*3"."""
        return str(self.first) + "".join(f"{operator}{operand}" for operator, operand in self.rest)

    @property
    def values(self) -> tuple[int, ...]:
        """The running value after each operation; the last one is the answer."""
        values, value = [], self.first
        for operator, operand in self.rest:
            value = apply(value, operator, operand)
            values.append(value)
        return tuple(values)

    @property
    def answer(self) -> int:
        """The final value of the chain, evaluated left to right."""
        return self.values[-1]


def apply(left: int, operator: str, right: int) -> int:
    """One operation, `operator` being one of + - *; a KeyError for any other."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def parse(expression: str) -> Chain:
    """The chain written in `expression`; PrefoptError when it is not digits joined by + - *."""
    if not _EXPRESSION.fullmatch(expression):
        raise PrefoptError(
            f"not an arithmetic chain: {expression!r}; expected whole numbers joined by + - *, like 12+7*3"
        )
    first, *rest = re.findall(r"[+\-*]?\d+", expression)
    return Chain(int(first), tuple((term[0], int(term[1:])) for term in rest))


def split_of(expression: str) -> str:
    """The one split that `expression` belongs to, a pure function of its text."""
    bucket = int.from_bytes(hashlib.sha256(expression.encode()).digest()[:8], "big") % 100
    for split, share in SPLIT_SHARES.items():
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("split shares must add up to 100")


def draw(rng: random.Random) -> Chain:
    """One random chain, its length uniform over the allowed numbers of operations."""
    value = first = rng.randint(1, MAX_ADDEND)
    rest: list[tuple[str, int]] = []
    for _ in range(rng.randint(MIN_OPERATIONS, MAX_OPERATIONS)):
        operator, operand = _draw_operation(rng, value)
        rest.append((operator, operand))
        value = apply(value, operator, operand)
    return Chain(first, tuple(rest))


def _draw_operation(rng: random.Random, value: int) -> tuple[str, int]:
    """An operation that keeps the running value in 0..MAX_VALUE; `value` lies there already."""
    options = []
    if value < MAX_VALUE:
        options.append(("+", 1, min(MAX_ADDEND, MAX_VALUE - value)))
    if value > 1:
        options.append(("-", 1, min(MAX_ADDEND, value - 1)))
    if 1 <= value <= MAX_VALUE // 2:
        options.append(("*", 2, min(MAX_FACTOR, MAX_VALUE // value)))
    operator, low, high = rng.choice(options)
    return operator, rng.randint(low, high)


def chains(split: str, seed: int) -> Iterator[Chain]:
    """Endless chains of one split, repeats possible; PrefoptError for an unknown split."""
    if split not in SPLIT_SHARES:
        raise PrefoptError(f"unknown split {split!r} of the quickstart task; {nearest(split, SPLIT_SHARES)}")
    rng = random.Random(f"{split}:{seed}")
    while True:
        chain = draw(rng)
        if split_of(chain.expression) == split:
            yield chain


def prompts(split: str, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` distinct prompts of a split as rows {"id", "prompt": one user message, "answer": text}."""
    seen: dict[str, Chain] = {}
    stream = chains(split, seed)
    while len(seen) < count:
        chain = next(stream)
        seen.setdefault(chain.expression, chain)
    return [
        {
            "id": f"{split}-{index:04d}",
            "prompt": [{"role": "user", "content": expression}],
            "answer": str(chain.answer),
        }
        for index, (expression, chain) in enumerate(seen.items())
    ]


def extract_answer(completion: str) -> int | None:
    """The number after the closing "A:", or None when the completion does not end with one."""
    match = _ANSWER.search(completion)
    return int(match.group(1)) if match else None
