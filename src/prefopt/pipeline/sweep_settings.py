"""`sweep` in a recipe: which settings every arm tries, and how the better ones are told.

A grid (`{train.learning_rate: [1.0e-5, 1.0e-4]}`, all combinations) or a list of whole settings (`[{train.beta: 0.1}, ...]`),
for all arms or for one. Keys are those of an arm, with dots or nested; a number leads into a list (`train.loss.0.beta`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config
from prefopt.report.sweep import shown_settings, shown_value
from prefopt.stages.data.settings import DataConfig

Tried = dict[str, Any] | list[dict[str, Any]]
Settings = dict[str, Any]  # dotted key -> value
# what an arm may say and a sweep may not choose: how it is measured, and how often it learns from itself
FIXED = {
    "evaluate": "how answers are measured is no choice of a sweep; set it for all arms",
    "rounds": "give the numbers of rounds as arms of their own",
    "reference_model": "give both as arms of their own",
}


class SweepConfig(Config):
    """Settings that every arm tries before its run, on tuning prompts that no report uses; the best goes on."""

    data: DataConfig | None = Field(
        None,
        description="tuning prompts (figure pairs: tuning pairs), other ones than data and evaluate.data",
    )
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="instead of data: this share of the run's prompts, which it then leaves out",
    )
    figure: Literal["sampled", "greedy", "pairs", "score"] = Field(
        "sampled",
        description="what decides: accuracy of sampled or greedy answers, accuracy on the tuning pairs, or the "
        "verifier's mean score of sampled answers",
    )
    n: int | None = Field(None, ge=1, description="sampled answers per tuning prompt (null: evaluate.n)")
    seed: int = Field(
        1000, ge=0, description="seed of the tuning, for sampling and training too; not one that is reported"
    )
    all: Tried | None = Field(
        None,
        description="settings for every arm that `arms` does not name: a grid {train.learning_rate: [1.0e-5, 1.0e-4]} "
        "or a list [{train.beta: 0.1}, ...]",
    )
    arms: dict[str, Tried | None] = Field(
        {}, description="arm -> its own settings in place of `all`; null: it is not tuned"
    )
    unequal: bool = Field(False, description="allow arms that try different numbers of settings")

    @model_validator(mode="after")
    def _complete(self) -> SweepConfig:
        if (self.data is None) == (self.share is None):
            raise ValueError(
                "needs tuning prompts: either data (a file of them) or share (of the run's prompts)"
            )
        if self.data is not None and self.data.path is None:
            raise ValueError("data: says no path; name the file of the tuning prompts")
        if not self.all and not self.arms:
            raise ValueError(
                "tries nothing; give `all`, e.g. {train.learning_rate: [1.0e-5, 1.0e-4]}, or `arms`"
            )
        return self


def tried_by_arm(sweep: SweepConfig, arms: Sequence[str], where: str) -> dict[str, list[Settings]]:
    """Arm -> the settings it tries, in order; one that is not tuned has a single empty one.

    Raises:
        PrefoptError: an unknown arm, a form that is neither grid nor list, settings that stand twice, numbers that differ.
    """
    for name in sweep.arms:
        if name not in arms:
            raise PrefoptError(f"{where}: sweep.arms: unknown arm {name!r}, {nearest(name, arms)}")
    found = {}
    for arm in arms:
        place = f"{where}: sweep.{f'arms.{arm}' if arm in sweep.arms else 'all'}"
        found[arm] = _listed(sweep.arms.get(arm, sweep.all), place)
    counts = {arm: len(settings) for arm, settings in found.items()}
    if len(set(counts.values())) > 1 and not sweep.unequal:
        told = ", ".join(f"{arm} {count}" for arm, count in counts.items())
        raise PrefoptError(
            f"{where}: sweep: the arms try different numbers of settings ({told}), and the best of more looks better by "
            "chance; give all the same number, or set sweep.unequal: true"
        )
    if max(counts.values()) < 2:
        raise PrefoptError(
            f"{where}: sweep: every arm has one setting, so there is nothing to choose; give several"
        )
    return found


def _listed(given: Tried | None, where: str) -> list[Settings]:
    if given is None:
        return [{}]
    if isinstance(given, list):
        found = [dict(_flat(one)) for one in given]
    else:
        grid = dict(_flat(given))
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                raise PrefoptError(f"{where}: {key}: give a list of the values to try, e.g. {key}: [1, 2]")
        found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not found:
        raise PrefoptError(f"{where}: is empty; give settings to try, or null for an arm that is not tuned")
    for number, settings in enumerate(found):
        if settings in found[:number]:
            raise PrefoptError(f"{where}: {shown_settings(settings)} stands twice; take one out")
    return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_settings(
    arm: Mapping[str, Any], settings: Settings, known: Collection[str], where: str
) -> dict[str, Any]:
    """The sections of `arm` (its complete settings, plain data) that `settings` change, as they then are.

    known: keys of an arm.

    Raises:
        PrefoptError: a key that no arm has or no sweep chooses, or a place that the arm does not have.
    """
    whole = copy.deepcopy(dict(arm))
    for key, value in settings.items():
        top = key.split(".")[0]
        if top in FIXED:
            raise PrefoptError(f"{where}: {key}: {FIXED[top]}")
        if top not in known:
            raise PrefoptError(
                f"{where}: unknown key {key!r}, {nearest(top, [k for k in known if k not in FIXED])}"
            )
        _put(whole, key, value, where)
    return {top: whole[top] for top in dict.fromkeys(key.split(".")[0] for key in settings)}


def _put(tree: Any, key: str, value: Any, where: str) -> None:
    *above, last = key.split(".")
    for depth, part in enumerate(above):
        if isinstance(tree, dict) and tree.get(part) is None:
            tree[part] = {}  # as an arm's settings on top of null
        tree = _inner(tree, part, key, where)
        if not isinstance(tree, dict | list):
            path = ".".join(above[: depth + 1])
            raise PrefoptError(
                f"{where}: {key}: the arm's {path} is {shown_value(tree)}, which has no part {key[len(path) + 1 :]!r}; give {path} as "
                "a whole"
            )
    if isinstance(tree, list):
        _inner(tree, last, key, where)
        tree[int(last)] = copy.deepcopy(value)
    else:
        tree[last] = copy.deepcopy(value)


def _inner(tree: Any, part: str, key: str, where: str) -> Any:
    if isinstance(tree, dict):
        return tree[part]
    if not part.isdecimal() or int(part) >= len(tree):
        raise PrefoptError(
            f"{where}: {key}: the arm has a list of {len(tree)} there, and {part!r} is none of its places; they count from 0"
        )
    return tree[int(part)]
