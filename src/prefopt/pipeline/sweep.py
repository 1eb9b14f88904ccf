"""A recipe with `sweep`: every arm tries its settings on tuning prompts, and goes on with the best of them.

    RUN/sweep/    one run whose arms are the candidates (`ARM-1`, `ARM-2`, ...), with the sweep's own seed
    RUN/sweep/sweep.json    every candidate with its figure, and which was chosen

Candidates share what is before their first difference, as arms do: data, samples, verdicts and reference are there once. A
candidate's model goes when it is measured; its history and its answers stay, so that a sweep that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefopt.core import processes
from prefopt.core.errors import Diverged
from prefopt.core.settings import merge, parse_config
from prefopt.pipeline.folder import check_run, enter_run, remove_stale
from prefopt.pipeline.recipe import Candidate, Recipe, resolve_sweep
from prefopt.pipeline.rounds import round_home
from prefopt.pipeline.run import BY_NAME, Run, Tuned, begin, homes, run, run_evaluate, run_rounds
from prefopt.pipeline.seeds import run_seeds
from prefopt.pipeline.sweep_choice import best, check_new_prompts, figure_of
from prefopt.report.sweep import sweep_lines
from prefopt.stages.running import Done, execute, work_key
from prefopt.stages.stage import Stage
from prefopt.stages.train.settings import TRAINED
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.lock import working_in
from prefopt.tables.owned import read_json
from prefopt.tables.progress import say, within
from prefopt.tables.records import is_writable, write_json

SWEEP, RESULT, DIVERGED = "sweep", "sweep.json", "diverged.json"
Chain = Mapping[str, Done]


def run_sweep(recipe: Recipe, output: Path, *, overwrite: bool = False, **how: Any) -> dict[str, Any]:
    """Tune the arms, then run the recipe with the chosen settings (with each of its seeds); returns its summary.

    how: further arguments of `run`. A killed run started again goes on, and ends with the same choice and the same tables.

    Raises:
        PrefoptError: as `run`; tuning prompts that the run or its test uses; no figure to choose by.
    """
    processes.by_first(lambda: check_run(output, recipe, overwrite=overwrite))
    with processes.telling(), working_in(output):
        processes.by_first(lambda: enter_run(output, recipe, check_run(output, recipe, overwrite=overwrite)))
        figures = tune(recipe, output / SWEEP, overwrite=overwrite, **how)
        chosen = with_chosen(recipe, figures)
        run_all: Callable[..., dict[str, Any]] = run_seeds if chosen.seeds else run
        return run_all(chosen, output, overwrite=overwrite, tuned=Tuned(recipe, figures), **how)


def tune(recipe: Recipe, folder: Path, *, overwrite: bool = False, **how: Any) -> dict[str, Any]:
    """Train and measure all candidates in `folder`; returns what `sweep.json` says."""
    tuning = tuning_recipe(recipe)
    processes.by_first(lambda: check_run(folder, tuning, overwrite=overwrite))
    with working_in(folder):
        processes.by_first(lambda: enter_run(folder, tuning, check_run(folder, tuning, overwrite=overwrite)))
        state = Run(root=folder, recipe=tuning, work=partial(_work, folder / DIVERGED), **how)
        evaluated, failed = walk_candidates(state, recipe, tidy=True)

        def finish() -> dict[str, Any]:
            remove_stale(folder, BY_NAME, state.used, tiny=recipe.model == "tiny")
            found = _figures(recipe, evaluated, failed)
            if found != read_json(folder / RESULT) and is_writable(folder):
                write_json(folder / RESULT, found)
            return found

        figures = processes.by_first(finish)
    for line in sweep_lines(figures):
        say(f"sweep: {line}")
    return figures


# ---- recipes


def tuning_recipe(recipe: Recipe) -> Recipe:
    """The recipe of all candidates as arms, measured on the tuning prompts; an arm with one setting is not among them."""
    sweep = recipe.sweep
    assert sweep is not None
    plain = _without_tuning_prompts(recipe)
    plain.pop("seeds", None)
    measured = plain.pop("evaluate", None)
    arms = {}
    for tried in resolve_sweep(recipe).values():
        for candidate in tried if len(tried) > 1 else ():
            own = merge(measured or {}, candidate.override.get("evaluate") or {})
            arms[candidate.name] = _unpublished({**candidate.override, "evaluate": _measure(recipe, own)})
    return parse_config(Recipe, {**_unpublished(plain), "seed": sweep.seed, "arms": arms}, "sweep")


def _unpublished(settings: dict[str, Any]) -> dict[str, Any]:
    """Candidates are for nobody's eyes: they are not pushed to a hub."""
    train = settings.get("train")
    return (
        {**settings, "train": {**train, "push_to_hub": None}}
        if train and train.get("push_to_hub")
        else settings
    )


def _without_tuning_prompts(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(exclude={"arms", "sweep"}, exclude_unset=True)
    assert recipe.sweep is not None
    if recipe.sweep.share is not None:
        plain["data"] = {**plain.get("data", {}), "tuning": recipe.sweep.share}
    return plain


def tuning_data(recipe: Recipe) -> dict[str, Any]:
    """Settings of the tuning prompts: a file of them, or the share of the run's that it leaves out."""
    sweep = recipe.sweep
    assert sweep is not None
    if sweep.data is not None:
        given = sweep.data.model_dump(exclude_unset=True)
    else:
        given = {**recipe.data.model_dump(exclude_unset=True), "tuning": sweep.share, "part": "tuning"}
    return {**given, "heldout": 0.0}


def _measure(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's settings of 08, for the sweep's figure alone."""
    sweep = recipe.sweep
    assert sweep is not None
    if sweep.figure == "pairs":
        return {**given, "data": None, "n": 0, "greedy": False, "pairs": "all"}
    n = 0 if sweep.figure == "greedy" else sweep.n or max(1, given.get("n", 1))
    own = {"data": tuning_data(recipe), "limit": None, "n": n, "greedy": not n, "pairs": "none"}
    return {**given, **own}


def with_chosen(recipe: Recipe, figures: Mapping[str, Any] | None) -> Recipe:
    """The recipe with the settings that were chosen; None: with the first of every arm, as a stand-in."""
    plain = _without_tuning_prompts(recipe)
    taken: dict[str, Candidate] = {}
    for arm, tried in resolve_sweep(recipe).items():
        name = figures["arms"][arm]["chosen"] if figures else tried[0].name
        taken[arm] = next(candidate for candidate in tried if candidate.name == name)
    if not recipe.arms:
        return parse_config(Recipe, merge(plain, taken["main"].override), "recipe")
    return parse_config(
        Recipe, {**plain, "arms": {arm: one.override for arm, one in taken.items()}}, "recipe"
    )


def earlier_choice(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """What a finished sweep of these very candidates has found; None where there is none."""
    found = read_json(folder / RESULT) or {}
    wanted = {arm: [c.settings for c in tried] for arm, tried in resolve_sweep(recipe).items()}
    there = {
        arm: [c.get("settings") for c in one["candidates"]] for arm, one in (found.get("arms") or {}).items()
    }
    return found if there == wanted else None


# ---- the walk


def walk_candidates(
    state: Run, recipe: Recipe, *, tidy: bool = False
) -> tuple[dict[str, Done], dict[str, str]]:
    """Candidate -> its finished 08, and candidate -> why its training came to nothing. tidy: models go when they are measured."""
    arms, source = begin(state)
    chain = check_new_prompts(state, recipe, tuning_data(recipe), source)
    several = _shares_models(arms.values())
    if tidy:
        _make_room(state, arms, source, chain, together=several)
    evaluated: dict[str, Done] = {}
    failed: dict[str, str] = {}
    for number, (name, home) in enumerate(homes(state.root, arms).items(), start=1):
        with within(f"candidate {name} ({number} of {len(arms)})"):
            try:
                found = _measured(state, arms[name], home, source, chain)
            except Diverged as error:
                if processes.world() > 1:  # the others have been told that this run ends
                    raise
                failed[name] = str(error)
                say(f"{error}; this setting is out")
                continue
            if found is not None:
                evaluated[name] = found
        if tidy and found is not None and recipe.sweep is not None:
            figure_of(found, recipe.sweep.figure)  # without one, it is said before more is trained
        if tidy and not several:
            _release(arms[name], home)
    if tidy and several:
        for name, home in homes(state.root, arms).items():
            _release(arms[name], home)
    return evaluated, failed


def _shares_models(arms: Collection[Recipe]) -> bool:
    """Whether a candidate's model may be wanted by another one: by its next round, or by another kind of evaluation."""
    measures = [arm.evaluate for arm in arms]
    return any(arm.rounds > 1 for arm in arms) or any(measure != measures[0] for measure in measures)


def _measured(state: Run, arm: Recipe, home: Path, source: Done, chain: Chain) -> Done | None:
    trained = run_rounds(state, arm, home, source)[-1].get("train")
    return run_evaluate(state, arm, home, chain, trained, None)


def _work(
    path: Path,
    state: Run,
    stage: Stage,
    config: Any,
    home: Path,
    upstream: Done | None,
    context: Context,
    **more: Any,
) -> Done:
    """A stage's work; a training that ended in no number is on record at `path`, and is not tried again."""
    if stage.name != "train":
        return execute(state, stage, config, home, upstream, context, **more)
    key = work_key(state, stage, config, upstream, context, **more)
    known: dict[str, Any] = read_json(path) or {}
    if key in known:
        raise Diverged(known[key])
    try:
        return execute(state, stage, config, home, upstream, context, **more)
    except Diverged as error:
        if processes.world() == 1:
            write_json(path, {**known, key: str(error)})
            stage.folder(home / stage.folder_name).discard()
        raise


# ---- models that are no longer there


def _trainings(arm: Recipe, home: Path) -> Sequence[StageFolder]:
    stage = BY_NAME["train"]
    places = [round_home(home, number, arm.rounds) for number in range(1, arm.rounds + 1)]
    return [stage.folder(place / stage.folder_name) for place in places]


def _release(arm: Recipe, home: Path) -> None:
    for folder in _trainings(arm, home):
        for name in (TRAINED, "checkpoints"):
            folder.release(name)


def _make_room(state: Run, arms: Mapping[str, Recipe], source: Done, chain: Chain, *, together: bool) -> None:
    """Trainings whose model went, although it is to be measured (anew): they are done again.

    together: where one of them is missing, all are.
    """

    def look(
        peek: Run, stage: Stage, config: Any, home: Path, upstream: Done | None, context: Context, **more: Any
    ) -> Done:
        name = more.pop("folder_name", None) or stage.folder_name
        key = work_key(peek, stage, config, upstream, context, **more)
        if key not in peek.done:
            if stage.name == "train" and key in known:
                raise Diverged(known[key])
            folder = stage.folder(home / name)
            if (folder.manifest or {}).get("key") != key or folder.damage():
                raise _Missing
            peek.done[key] = Done(folder.output_key(key), folder)
        return peek.done[key]

    known = read_json(state.root / DIVERGED) or {}
    peek = replace(state, work=look, skip=lambda *skipped: None, done=dict(state.done), used=set())
    places, missing = homes(state.root, arms), []
    for name, home in places.items():
        try:
            _measured(peek, arms[name], home, source, chain)
        except _Missing:
            missing.append(name)
        except Diverged:
            continue
    for name in list(arms) if together and missing else missing:
        for folder in _trainings(arms[name], places[name]):
            if folder.released:
                processes.by_first(lambda folder=folder: folder.discard())  # type: ignore[misc]


class _Missing(Exception):
    """A stage that is not finished under its key."""


def _figures(recipe: Recipe, evaluated: Mapping[str, Done], failed: Mapping[str, str]) -> dict[str, Any]:
    """What `sweep.json` says."""
    sweep = recipe.sweep
    assert sweep is not None
    arms = {}
    for arm, tried in resolve_sweep(recipe).items():
        entries: list[dict[str, Any]] = []
        for one in tried:
            entry: dict[str, Any] = {"name": one.name, "settings": one.settings}
            if one.name in evaluated:
                entry |= figure_of(evaluated[one.name], sweep.figure)
            elif one.name in failed:
                entry["failed"] = failed[one.name]
            entries.append(entry)
        arms[arm] = {"chosen": best(arm, entries), "candidates": entries}
    return {"figure": sweep.figure, "seed": sweep.seed, "arms": arms}
