"""A loss as a structure, which is compiled once, and its numbers, which are traced: losses of equal form share a function."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.losses import LossSum, Term

GIVEN = (
    *("chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_tokens", "rejected_tokens"),
    *("completion", "ref_completion", "label", "tokens", "kl", "progress"),
)


def split_loss(loss: LossSum) -> tuple[str, dict[str, np.ndarray]]:
    """What is compiled (a text that is equal for equal structures) and what is traced (numbers by place).

    Raises:
        PrefoptError: the loss wants something that trajectories do not have.
    """
    unknown = [name for name in loss.needs if name not in GIVEN]
    if unknown:
        raise PrefoptError(f"suite: the loss needs {', '.join(unknown)}, which trajectories do not have")
    if not loss.weightable:
        raise PrefoptError("suite: losses that sort their rows cannot be weighted; take another one")
    numbers: dict[str, np.ndarray] = {}
    shape: list[Any] = []

    def walk(term: Term, place: str) -> None:
        words: dict[str, str] = {}
        _numbers_of(term.hyper, place, numbers, words)
        outer = place.isdigit()  # the scale of an inner penalty is compiled in, that of a term is traced
        if outer:
            numbers[f"{place}/scale"] = np.asarray(term.scale, dtype=np.float32)
        fixed = [term.loss.name, term.loss.x, None if outer else term.scale]
        shape.append([place, fixed, words])
        for k, inner in enumerate(term.inside):
            walk(inner, f"{place}/inside{k}")

    for k, term in enumerate(loss.terms):
        walk(term, str(k))
    return json.dumps([shape, sorted((k, np.shape(v)) for k, v in numbers.items())], sort_keys=True), numbers


def _is_number(value: Any) -> bool:
    """Whether a value is traced: a number, an array, or lists of numbers (a learned map's tables, a pair [p0, p1])."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(_is_number(item) for item in value)
    return hasattr(value, "dtype") or (isinstance(value, int | float) and not isinstance(value, bool))


def _numbers_of(
    values: Mapping[str, Any], place: str, numbers: dict[str, Any], words: dict[str, str]
) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _numbers_of(value, f"{place}/{name}", numbers, words)
        elif _is_number(value):
            numbers[f"{place}/{name}"] = np.asarray(value, dtype=np.float32)
        else:
            words[f"{place}/{name}"] = repr(value)


def loss_with(loss: LossSum, numbers: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The loss as a function of its inputs, with (traced) numbers in place of its own."""

    def fill(values: Mapping[str, Any], place: str) -> dict[str, Any]:
        return {
            name: fill(value, f"{place}/{name}")
            if isinstance(value, Mapping)
            else numbers.get(f"{place}/{name}", value)
            for name, value in values.items()
        }

    def put(term: Term, place: str) -> Term:
        inside = tuple(put(inner, f"{place}/inside{k}") for k, inner in enumerate(term.inside))
        return dataclasses.replace(term, hyper=fill(term.hyper, place), inside=inside)

    terms = [(numbers[f"{k}/scale"], put(term, str(k))) for k, term in enumerate(loss.terms)]

    def value(inputs: Mapping[str, Any]) -> Any:
        total = 0.0
        for scale, term in terms:  # as LossSum does, with scales that may be traced
            total = total + scale * term.values(inputs)
        return total

    return value
