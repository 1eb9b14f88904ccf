"""What a sweep chooses by: tuning prompts that are nobody else's, a figure of every candidate, and the highest of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.pipeline.recipe import Recipe, resolve_arms
from prefopt.pipeline.run import Run, settled, test_prompts
from prefopt.rules.content import prompt_words
from prefopt.rules.student import over_seeds
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.running import Done
from prefopt.tables.context import Context
from prefopt.tables.records import Row, rows_of

SHOWN = 60  # characters of a prompt in a message


def check_new_prompts(
    state: Run, recipe: Recipe, given: Mapping[str, Any], source: Done
) -> Mapping[str, Done]:
    """Read the tuning prompts and hold them against all others; returns the chain that 08 takes its pairs from.

    given: settings of the tuning prompts. source: the run's data. Prompts are the same when their words are.

    Raises:
        PrefoptError: a tuning prompt is in the data or among the test prompts; the figure wants pairs and there are none.
    """
    sweep = recipe.sweep
    assert sweep is not None
    tuning = test_prompts(state, parse_config(DataConfig, given, "sweep.data"))
    kind = (tuning.folder.manifest or {})["quality"]["kind"]
    if sweep.figure == "pairs" and kind != "pairs":
        raise PrefoptError(
            f"sweep.figure pairs needs tuning data with pairs, and it holds {kind}; take another figure"
        )
    rows = {prompt_words(row["prompt"]): row for row in _rows(tuning)}
    for name, there in _others(state, recipe, source):
        both = [words for words in rows if words in there]
        if both:
            words = both[0] if len(both[0]) <= SHOWN else f"{both[0][:SHOWN]}..."
            raise PrefoptError(
                f"sweep: {len(both)} of {len(rows)} tuning prompts are in {name} too (e.g. {words!r}), so that the choice would "
                "know what is reported; take them out of one of the two"
            )
    return {"data": tuning if sweep.figure == "pairs" else source}


def _rows(done: Done) -> list[Row]:
    return rows_of(done.folder.table().select_columns(["prompt"]))


def _others(state: Run, recipe: Recipe, source: Done) -> Iterator[tuple[str, set[str]]]:
    """(what a message calls it, words of its prompts): the run's data, and every file of test prompts."""
    yield f"the run's data ({recipe.data.path})", {prompt_words(row["prompt"]) for row in _rows(source)}
    arms = resolve_arms(recipe.model_copy(update={"sweep": None})).values()
    tests = [arm.evaluate.data for arm in arms if arm.evaluate is not None]
    for number, config in enumerate(tests):
        if config is not None and config.path is not None and config not in tests[:number]:
            table = data(None, settled(state, config), Context(seed=recipe.seed)).table
            words = {prompt_words(row["prompt"]) for row in rows_of(table)}
            yield f"the test prompts ({config.path})", words


def figure_of(done: Done, figure: str) -> dict[str, Any]:
    """mean, low, high (95%, null with one prompt) and n of what decides.

    Raises:
        PrefoptError: the candidate has no such figure.
    """
    quality = (done.folder.manifest or {}).get("quality") or {}
    found = {
        "sampled": lambda: quality.get("accuracy"),
        "greedy": lambda: quality.get("greedy"),
        "pairs": lambda: (quality.get("pairs") or {}).get("logp"),
        "score": lambda: _mean_score(rows_of(done.folder.table())),
    }[figure]()
    if not found or found.get("mean") is None:
        raise PrefoptError(
            f"sweep.figure {figure}: no tuning prompt has one; give tuning prompts with what the verifier needs (gold answers, "
            "constraints), or another figure"
        )
    return {name: found[name] for name in ("mean", "low", "high", "n")}


def _mean_score(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Mean over prompts of the mean score of their sampled answers (1 or 0 where a verifier says right or wrong alone)."""
    by_prompt: dict[str, list[float]] = {}
    for row in rows:
        score = row.get("score") if row.get("score") is not None else row.get("is_correct")
        if row["kind"] == "sample" and row["mode"] == "sampled" and score is not None:
            by_prompt.setdefault(row["prompt_id"], []).append(float(score))
    return over_seeds([statistics.fmean(scores) for scores in by_prompt.values()]) if by_prompt else None


def best(arm: str, candidates: Sequence[Mapping[str, Any]]) -> str:
    """Name of the candidate with the highest mean, the first listed of equal ones; a single one is chosen without a figure.

    Raises:
        PrefoptError: all trainings of the arm came to nothing.
    """
    if len(candidates) == 1:
        return str(candidates[0]["name"])
    known = [one for one in candidates if "mean" in one]
    if not known:
        raise PrefoptError(
            f"sweep: arm {arm}: no setting trained to an end (the first: {candidates[0].get('failed')}); try lower learning rates"
        )
    return str(max(known, key=lambda one: one["mean"])["name"])
