"""The stages in order: START HERE.

    data -> sample -> judge -> rank -> reference -> select -> weight -> train -> evaluate

`run` walks the arms of a recipe through the stages. A stage is named by a key, the digest of its settings, seed, model
and everything upstream: equal keys are the same work, so arms share the stages before their first difference and a
finished stage is not run again. The main arm (the last) lives at `NN-name/`, others at `arms/NAME/NN-name/`; earlier
rounds of a recipe of several (`prefopt.pipeline.rounds`) at `rounds/K/NN-name/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefopt import __version__
from prefopt.core import processes
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process, notice
from prefopt.pipeline.folder import (
    MODEL_FOLDER,
    SUMMARY,
    TEST_FOLDER,
    check_run,
    enter_run,
    forget_summary,
    remove_stale,
)
from prefopt.pipeline.obstacles import (
    check_columns,
    check_losses,
    check_served,
    check_verifiers,
    reads_no_reference,
)
from prefopt.pipeline.recipe import BASE, Recipe, resolve_arms
from prefopt.pipeline.rounds import Round, check_rounds, round_home, train_inputs
from prefopt.stages.data import data
from prefopt.stages.data.chat import for_model
from prefopt.stages.evaluate import evaluate
from prefopt.stages.judge import judge
from prefopt.stages.rank import rank
from prefopt.stages.reference import reference
from prefopt.stages.running import Done, Ledger, execute, stage_seed
from prefopt.stages.sample import sample
from prefopt.stages.select import select
from prefopt.stages.stage import Stage
from prefopt.stages.train import train
from prefopt.stages.train.settings import CALLBACKS
from prefopt.stages.weight import weight
from prefopt.tables.context import Context
from prefopt.tables.lock import working_in
from prefopt.tables.owned import read_json
from prefopt.tables.progress import within
from prefopt.tables.records import digest, is_writable, write_json

STAGES: tuple[Stage, ...] = (
    data.STAGE,
    sample.STAGE,
    judge.STAGE,
    rank.STAGE,
    reference.STAGE,
    select.STAGE,
    weight.STAGE,
    train.STAGE,
    evaluate.STAGE,
)
BY_NAME = {stage.name: stage for stage in STAGES}
# what 00-data found -> the stages whose work is already in the file
SKIPPED_BY_KIND = {
    "prompts": (),
    "completions": ("sample",),
    "pairs": ("sample", "judge", "rank"),
    "unpaired": ("sample", "judge", "rank"),
}


@dataclass(frozen=True)
class Tuned:
    """A sweep that has chosen the settings of a recipe: the recipe as it was written, and all that was tried."""

    written: Recipe
    figures: dict[str, Any]


@dataclass(kw_only=True)
class Run(Ledger):
    """State of one `run`: the folder, the recipe and the model that all arms start from.

    work, skip, prepare: what is done with a stage, with one that is skipped, and for the model; a plan does other things
    with them on the same way (`prefopt.pipeline.plan`). find: the directory of a model by name, None where it is not here
    yet (None: `resolve_model`, which may fetch it).
    """

    root: Path
    recipe: Recipe
    strict: bool = False
    model: Path = Path()
    callbacks: Sequence[Any] = ()
    work: Callable[..., Done] = execute
    skip: Callable[[Run, Stage, Path, str], None] = field(default=lambda *skipped: write_skip(*skipped))
    prepare: Callable[[Run, Done], None] = field(default=lambda *given: prepare_model(*given))
    find: Callable[[str], Path | None] | None = None
    tuned: Tuned | None = None

    def begin(self) -> None:
        """Before a stage's work: the summary of what was there does not hold any longer."""
        if not self.worked:
            forget_summary(self.root)
        super().begin()


@dataclass(frozen=True)
class Walked:
    """What a walk through all arms has come by: arm -> finished stages of each round, evaluations, those of each round."""

    rounds: Mapping[str, Sequence[Mapping[str, Done]]]
    evaluated: Mapping[str, Done]
    by_round: Mapping[str, Sequence[tuple[Mapping[str, Done], Done | None]]]


def run(
    recipe: Recipe,
    output: Path,
    *,
    strict: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    tuned: Tuned | None = None,
) -> dict[str, Any]:
    """Run all arms of a recipe; returns what `summary.json` says. callbacks: of transformers' Trainer, for every training.

    A killed run started again with the same recipe and folder continues and ends with the same tables and models.
    One process at a time works in the folder, which is new, empty or this recipe's (`prefopt.pipeline.folder`).
    retry_failed: rows that a server gave up on are asked again in stages that are finished; what follows is done anew.
    overwrite: another recipe's run in the folder is replaced. tuned: what a sweep has chosen, where `recipe` follows from it.

    Raises:
        PrefoptError: bad input or settings, with the remedy; another process or another recipe's run in the folder.
    """
    written = tuned.written if tuned else recipe
    processes.by_first(lambda: check_run(output, written, overwrite=overwrite))
    with processes.telling(), working_in(output):

        def enter() -> None:
            changed = check_run(output, written, overwrite=overwrite)
            resolve_arms(recipe)
            enter_run(output, written, changed)

        processes.by_first(enter)
        state = Run(root=output, recipe=recipe, strict=strict, retry_failed=retry_failed, callbacks=callbacks)
        state.tuned = tuned
        return _run(state)


def _run(state: Run) -> dict[str, Any]:
    """Walk the arms, remove what is no longer theirs, write the summary."""
    from prefopt.report.summary import summarize

    start = time.perf_counter()
    output, recipe = state.root, state.recipe
    walked = walk(state)
    if state.retry_failed and not state.reopened:
        notice(f"{output}: no failed rows; nothing was asked again")

    def finish() -> dict[str, Any]:
        remove_stale(output, BY_NAME, state.used, tiny=recipe.model == "tiny")
        seconds = time.perf_counter() - start
        chains = {name: chain[-1] for name, chain in walked.rounds.items()}
        summary = summarize(output, recipe, chains, walked.evaluated, seconds, walked.by_round)
        if state.tuned is not None:
            summary |= {"settings": state.tuned.written.given(), "sweep": state.tuned.figures}
        before = read_json(output / SUMMARY)
        if not state.worked and before is not None:
            summary["seconds"] = before.get("seconds", summary["seconds"])  # those of the work itself
        if summary != before and is_writable(output):  # a finished run may lie on a disk that is not
            write_json(output / SUMMARY, summary)
        return summary

    return processes.by_first(finish)


def walk(state: Run) -> Walked:
    """All arms through all stages, in the order in which they are done.

    Raises:
        PrefoptError: what cannot work, before anything is computed; and whatever a stage finds.
    """
    arms, source = begin(state)
    rounds: dict[str, list[dict[str, Done]]] = {}
    for name, home in homes(state.root, arms).items():
        with within(f"arm {name}" if len(arms) > 1 else ""):
            rounds[name] = run_rounds(state, arms[name], home, source)
    rounds = {name: rounds[name] for name in arms}
    evaluated, by_round = _evaluate_all(state, arms, rounds)
    return Walked(rounds, evaluated, by_round)


def begin(state: Run) -> tuple[dict[str, Recipe], Done]:
    """The arms, and the data that all begin with, when model and data are found to fit them.

    Raises:
        PrefoptError: what cannot work, before anything is computed.
    """
    arms = resolve_arms(state.recipe)
    with within("stage 1"):
        source = _run_data(state)
    found = source.folder.manifest or {}
    check_losses(arms, found["quality"]["kind"])
    check_served(arms)
    check_verifiers(arms)
    check_columns(arms, found["quality"]["kind"], found["columns"])
    check_rounds(arms, found["quality"]["kind"], found["columns"])
    state.prepare(state, source)
    return arms, source


def homes(root: Path, arms: Collection[str]) -> dict[str, Path]:
    """Arm -> its folder, the main one first, so that shared stages lie at the top of the run folder."""
    *others, main = arms
    return {main: root, **{name: root / "arms" / name for name in others}}


def _measured(
    chain: Mapping[str, Done], rounds: Mapping[str, Sequence[Mapping[str, Done]]]
) -> Mapping[str, Done]:
    """The chain, with the reference of another arm on the same pairs where it has none: all arms are measured on the same tokens."""
    if "reference" in chain:
        return chain
    others = (other[-1] for other in rounds.values() if "reference" in other[-1])
    fit = next((other for other in others if _pairs_key(other) == _pairs_key(chain)), None)
    return {**chain, "reference": fit["reference"]} if fit else chain


def _pairs_key(chain: Mapping[str, Done]) -> str:
    return chain.get("rank", chain["data"]).key


def _evaluate_all(
    state: Run, arms: Mapping[str, Recipe], rounds: Mapping[str, Sequence[Mapping[str, Done]]]
) -> tuple[dict[str, Done], dict[str, list[tuple[Mapping[str, Done], Done | None]]]]:
    """`base` and each arm -> finished 08, and, of arms of several rounds, every round with its 08.

    With rounds, every model ranks the same held-out pairs, those of the main arm's last round: rows of one name hold
    other answers in every round.
    """
    main = list(arms)[-1]
    shared = _measured(rounds[main][-1], rounds)
    several = any(len(chains) > 1 for chains in rounds.values())
    base_recipe = state.recipe if main == "main" else arms[main]
    with within("the model before training"):
        base = run_evaluate(state, base_recipe, state.root / "arms" / BASE, shared, None, None)
    evaluated = {BASE: base} if base else {}
    by_round: dict[str, list[tuple[Mapping[str, Done], Done | None]]] = {}
    for name, home in homes(state.root, arms).items():
        chains = rounds[name]
        for number, chain in enumerate(chains, start=1):
            pairs = shared if several else _measured(chain, rounds)
            place = round_home(home, number, len(chains))
            with within(f"arm {name}" if len(arms) > 1 else ""), within(_round(number, len(chains))):
                after = run_evaluate(state, arms[name], place, pairs, chain.get("train"), base)
            if several:
                by_round.setdefault(name, []).append((chain, after))
        if after:
            evaluated[name] = after
    order = [name for name in (BASE, *arms) if name in evaluated]
    return {name: evaluated[name] for name in order}, {
        name: by_round[name] for name in arms if name in by_round
    }


def _run_data(state: Run) -> Done:
    config = state.recipe.data
    if config.path is None:
        raise PrefoptError(
            f"recipe {state.recipe.name!r} has no data; say which, e.g. prefopt run {state.recipe.name} "
            "--data FILE.jsonl.gz"
        )
    config = settled(state, config)
    context = Context(seed=stage_seed(state.recipe.seed, "data"), strict=state.strict)
    return state.work(
        state, BY_NAME["data"], config, state.root, None, context, extra=[data.source_digest(config)]
    )


def settled(state: Run, config: Any) -> Any:
    """Settings of data with `chat: auto` settled by the recipe's model; one that is made of the data reads it as it is."""
    from prefopt.models.find import resolve_model

    if config.chat != "auto" or state.recipe.model == "tiny":
        return config
    return for_model(config, (state.find or resolve_model)(state.recipe.model))


def prepare_model(state: Run, source: Done) -> None:
    """Resolve the model directory; `tiny` is built from the run's own texts in `00-model`."""
    from prefopt.models.find import resolve_model
    from prefopt.models.load import model_digest

    if state.recipe.model == "tiny":
        from prefopt.models.tiny import build_tiny_for

        tiny = state.recipe.tiny
        directory = state.root / MODEL_FOLDER
        key = digest("tiny", tiny.model_dump(), state.recipe.seed, source.key, __version__)
        build = partial(
            build_tiny_for,
            source.folder.table(),
            directory,
            key=key,
            seed=stage_seed(state.recipe.seed, "model"),
            vocab_size=tiny.vocab_size,
            warmup_steps=tiny.warmup_steps,
        )
        processes.by_first(lambda: bool(build()))
        state.model = directory
    else:
        state.model = resolve_model(state.recipe.model)
    state.model_key = model_digest(state.model)


def run_rounds(state: Run, recipe: Recipe, home: Path, source: Done) -> list[dict[str, Done]]:
    """Stages 01 to 07 of every round of one arm."""
    at = Round(1, state.model, state.model_key)
    chains = []
    while True:
        with within(_round(at.number, recipe.rounds)):
            chains.append(_run_arm(state, recipe, round_home(home, at.number, recipe.rounds), source, at))
        if at.number == recipe.rounds:
            return chains
        trained = chains[-1]["train"]
        at = Round(at.number + 1, trained.folder.path / "model", trained.key)


def _run_arm(state: Run, recipe: Recipe, home: Path, source: Done, at: Round) -> dict[str, Done]:
    """Stages 01 to 07 of one round of an arm; returns the finished ones by name."""
    chain = {"data": source}
    last = source
    kind = "prompts" if at.number > 1 else (source.folder.manifest or {})["quality"]["kind"]
    todo = _todo(recipe, kind)
    for stage in STAGES[1:-1]:
        config = getattr(recipe, stage.name)
        reason = _skip_reason(stage, recipe, kind)
        if reason:
            state.skip(state, stage, home, reason)
            continue
        inputs = _inputs(stage, chain)
        if stage.name == "train":
            inputs |= train_inputs(recipe, at.number) | {CALLBACKS: state.callbacks}
        seed = stage_seed(state.recipe.seed, at.seed_name(stage.name))
        is_first = stage.name == "reference" and recipe.reference_model == "fixed"
        model, key = (state.model, state.model_key) if is_first else (at.model, at.model_key)
        context = Context(seed=seed, model=model, strict=state.strict, inputs=inputs)
        with within(f"stage {todo.index(stage.name) + 1} of {len(todo)}"):
            last = state.work(state, stage, config, home, last, context, model_key=key)
        chain[stage.name] = last
    return chain


def _todo(recipe: Recipe, kind: str) -> list[str]:
    """Names of the stages of an arm that are not skipped."""
    return [stage.name for stage in STAGES if not _skip_reason(stage, recipe, kind)]


def _round(number: int, rounds: int) -> str:
    return f"round {number} of {rounds}" if rounds > 1 else ""


def _skip_reason(stage: Stage, recipe: Recipe, kind: str) -> str:
    if stage.name in SKIPPED_BY_KIND[kind]:
        return f"the input holds {kind}"
    if getattr(recipe, stage.name) is None:
        return "set to null in the recipe"
    is_idle = stage.name == "reference" and reads_no_reference(recipe)
    return "neither loss nor selection nor weights read reference log-probs" if is_idle else ""


def write_skip(state: Run, stage: Stage, home: Path, reason: str) -> None:
    """The reason, beside the place of the stage's folder: there is a folder only where a stage did some work."""
    path, said = home / f"{stage.folder_name}.skipped.json", {"stage": stage.name, "skipped": reason}
    if home == state.root:
        state.used.add(path)
        if is_first_process() and read_json(path) != said:
            write_json(path, said)


def _inputs(stage: Stage, chain: Mapping[str, Done]) -> dict[str, Any]:
    if stage.name == "weight" and "judge" in chain:
        return {"completions": chain["judge"].folder.table()}
    return {}


def run_evaluate(
    state: Run,
    recipe: Recipe,
    home: Path,
    chain: Mapping[str, Done],
    trained: Done | None,
    before: Done | None,
) -> Done | None:
    """Stage 08 with the trained model, or with the base model when `trained` is None."""
    config = recipe.evaluate
    if config is None or (before is not None and trained is None):
        return None
    inputs: dict[str, Any] = {}
    extra = []
    if config.data is not None:
        prompts = test_prompts(state, config.data)
        inputs["prompts"] = prompts.folder.table()
        extra.append(prompts.key)
    if before is not None:
        inputs["before"] = before.folder.table()
        extra.append(before.key)
    model = trained.folder.path / "model" if trained else state.model
    extra.append(trained.key if trained else state.model_key)
    pairs = next((chain[name] for name in ("reference", "rank") if name in chain), chain["data"])
    seed = stage_seed(state.recipe.seed, "evaluate")
    context = Context(seed=seed, model=model, strict=state.strict, inputs=inputs)
    todo = _todo(recipe, (chain["data"].folder.manifest or {})["quality"]["kind"])
    with within(f"stage {len(todo)} of {len(todo)}"):
        return state.work(state, BY_NAME["evaluate"], config, home, pairs, context, extra=extra)


def test_prompts(state: Run, config: Any) -> Done:
    """The test prompts, read once for all arms, in `00-test`. config: of the data."""
    context = Context(seed=stage_seed(state.recipe.seed, "test"), strict=state.strict)
    return state.work(
        state, BY_NAME["data"], settled(state, config), state.root, None, context,
        extra=["test", data.source_digest(config)], folder_name=TEST_FOLDER,
    )  # fmt: skip
