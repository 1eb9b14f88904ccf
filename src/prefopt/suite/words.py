"""Words of the command line as numbers: seeds, lengths of time, hyperparameters."""

from __future__ import annotations

import math

from prefopt.core.errors import PrefoptError


def parse_seeds(text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """`1-4,9` -> (1, 2, 3, 4, 9). Raises PrefoptError for anything else."""
    if text is None:
        return default
    out: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise PrefoptError(f"--lineages: {part!r} is neither a seed nor a range; write 1-4,9")
        out += range(int(first), int(last if dash else first) + 1)
    return tuple(dict.fromkeys(out))


def parse_budget(text: str) -> float:
    """`60m`, `90s`, `1.5h` -> seconds. Raises PrefoptError for anything else."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise PrefoptError(f"--budget: {text!r} is no length of time; write 60m, 90s or 1.5h")
    return seconds


def parse_hyper(text: str) -> dict[str, float]:
    """`beta=0.003,learning_rate=1e-3` -> numbers. Raises PrefoptError for anything else, or without a learning_rate."""
    out = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise PrefoptError(f"--hyper: {part!r} is not NAME=NUMBER; write beta=0.003,learning_rate=1e-3")
    if "learning_rate" not in out:
        raise PrefoptError("--hyper: learning_rate is missing; write beta=0.003,learning_rate=1e-3")
    return out
