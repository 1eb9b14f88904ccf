"""A stage run in its folder under its key: equal keys are the same work, and finished work is not done again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefopt import __version__
from prefopt.core import processes
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process, notice
from prefopt.core.settings import changed_keys
from prefopt.stages.concerns import concerns
from prefopt.stages.memory import memory_told
from prefopt.stages.places import check_places
from prefopt.stages.results import result_lines
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.lock import working_in
from prefopt.tables.progress import on_terminal, rows_seen, say, shown_drops, where
from prefopt.tables.records import digest, require

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Done:
    """A finished (or skipped) stage: its key and where its table lies."""

    key: str
    folder: StageFolder


@dataclass(kw_only=True)
class Ledger:
    """Every finished stage by key of its work, and what all stages of a run have in common."""

    retry_failed: bool = False
    reopened: bool = False  # a stage was: what follows has another input and is done anew
    worked: bool = False  # a stage was begun
    used: set[Path] = field(default_factory=set)  # folders of the stages
    model_key: str = ""
    done: dict[str, Done] = field(default_factory=dict)

    def begin(self) -> None:
        """Called before a stage's work, when there is any."""
        self.worked = True


def stage_seed(seed: int, name: str) -> int:
    """The seed of a stage (31 bits), derived from the run's seed and the stage's name."""
    return int(digest(seed, name)[:8], 16) & 0x7FFFFFFF


def execute(
    state: Ledger,
    stage: Stage,
    config: Any,
    home: Path,
    upstream: Done | None,
    context: Context,
    *,
    extra: list[str] | None = None,
    folder_name: str | None = None,
    model_key: str | None = None,
) -> Done:
    """Run one stage unless its key is known to be finished, here or in an arm that shares it. One process at a time.

    model_key: of the model it runs with, where that is not the run's.
    """
    key = work_key(state, stage, config, upstream, context, extra=extra, model_key=model_key)
    if key in state.done:
        return state.done[key]
    folder = stage.folder(home / (folder_name or stage.folder_name))
    check_places(folder.path, config, context)
    with working_in(folder.path):
        way = processes.by_first(lambda: way_of(folder, key, state.retry_failed, changed=state.reopened))
        if way == "none":
            say(f"{stage.name}: done before, {(folder.manifest or {}).get('rows_out', 0):,} rows")
        else:
            state.begin()
            table = upstream.folder.table() if upstream else None
            about = {"key": key, "input": upstream.key if upstream else None}
            run_stage(stage, config, folder, table, context, about, again=way == "again")
            state.reopened |= way == "again"
    state.used.add(folder.path)
    state.done[key] = Done(folder.output_key(key), folder)
    return state.done[key]


def work_key(
    state: Ledger,
    stage: Stage,
    config: Any,
    upstream: Done | None,
    context: Context,
    *,
    extra: list[str] | None = None,
    model_key: str | None = None,
) -> str:
    """The name of a piece of work: the digest of all that its result depends on."""
    settings = config.model_dump(mode="json")
    wanted = (state.model_key if model_key is None else model_key) if stage.wants_model(config) else ""
    parts = [stage.name, settings, context.seed, context.strict, upstream.key if upstream else "", wanted]
    return digest(*parts, [*(extra or []), *stage.outside(config)], __version__)


def way_of(
    folder: StageFolder, key: str, retry_failed: bool, *, changed: bool = False
) -> Literal["none", "begin", "again"]:
    """What is to be done: nothing, the stage as a whole (or what a kill left of it), or its failed rows again.

    changed: the stage's input is known to be another one since.

    Raises:
        PrefoptError: failed rows are to be asked again, but settings or input are not those of the finished stage.
    """
    if folder.finished(key):
        return "again" if retry_failed and folder.failed else "none"
    if retry_failed and folder.failed and not changed:
        raise PrefoptError(
            f"{folder.path}: was made with other settings, input or version; --retry-failed asks the failed rows of the "
            "very same work: repeat its command, or leave --retry-failed out to do everything anew"
        )
    return "begin"


def run_stage(
    stage: Stage,
    config: Any,
    folder: StageFolder,
    table: Dataset | None,
    context: Context,
    about: Mapping[str, Any],
    *,
    again: bool = False,
) -> StageOutput:
    """Run a stage in its folder and write table, timings and manifest. again: a finished one, for its failed rows."""
    if table is not None:
        require(table, stage.reads, f"{stage.name} ({folder.path})")
    processes.by_first(lambda: _begin(folder, config, about["key"], again))
    context = Context(context.seed, context.model, folder, context.strict, context.inputs)
    form = _form(table) if table is not None and stage.wants_model(config) else ""
    if form or not on_terminal():  # there a bar says the rest
        say(f"{stage.name}: {f'{table.num_rows:,} rows{form}' if table is not None else 'begins'}")
    if is_first_process():
        _warn_of_template(stage, config, table, context)
    start = time.perf_counter()
    with processes.telling(), folder.timed("stage"), memory_told(stage.name, config):
        output = _work(stage, config, table, context)
    if output is not None and is_first_process():
        with processes.telling():
            folder.finish(stage.name, output, {
                **about,
                "config": config.model_dump(mode="json"),
                "seed": context.seed,
                "rows_in": output.quality.get("rows_in", table.num_rows if table is not None else None),
            })  # fmt: skip
    processes.meet()
    _tell(stage, folder, time.perf_counter() - start)
    return output or stored(folder)


def _begin(folder: StageFolder, config: Any, key: str, again: bool) -> None:
    if again:
        folder.reopen(key)
    else:
        _tell_changes(folder, config, key)
        folder.begin(key)


def _work(stage: Stage, config: Any, table: Dataset | None, context: Context) -> StageOutput | None:
    """What the stage gives; None in the other processes of one that the first does alone."""
    is_shared = stage.shares(config)
    if not is_shared and not is_first_process():
        return None
    with processes.sharing(is_shared):
        output = stage.run(table, config, context)
    if is_shared:
        processes.meet()  # none reads parts any longer, which go when the stage is finished
    return output


def stored(folder: StageFolder) -> StageOutput:
    """What a finished stage gave, from its folder."""
    manifest = folder.manifest or {}
    return StageOutput(
        folder.table(), manifest.get("dropped", {}), manifest.get("quality", {}), folder.failed
    )


def _form(table: Dataset) -> str:
    """How the rows of a stage reach the model."""
    if not table.num_rows or "prompt" not in table.column_names:
        return ""
    is_text = isinstance(table[0]["prompt"], str)
    return ", prompts as plain text" if is_text else ", messages through the chat template"


def _warn_of_template(stage: Stage, config: Any, table: Dataset | None, context: Context) -> None:
    """What the chat template does to the answers without a word, told once: by the first stage that reads them."""
    if table is None or not table.num_rows or not stage.wants_model(config) or context.model is None:
        return
    names = set(table.column_names)
    is_first = stage.name == "reference" or (
        stage.name == "train" and not names & {"ref_chosen_logps", "ref_completion_logps"}
    )
    if not is_first or "prompt" not in names or isinstance(table[0]["prompt"], str):
        return
    from prefopt.models.load import load_tokenizer
    from prefopt.models.template_faults import ROWS, template_faults
    from prefopt.tables.records import rows_of

    for line in template_faults(
        load_tokenizer(context.model), rows_of(table.select(range(min(ROWS, table.num_rows))))
    ):
        say(f"warning: {stage.name}: {line}")


def _tell(stage: Stage, folder: StageFolder, seconds: float) -> None:
    """What came of a stage, where it is one of several, and a warning where much was dropped, cut or empty."""
    manifest = folder.manifest or {}
    dropped, rows = manifest.get("dropped") or {}, rows_seen(manifest)
    if where():
        told = result_lines(folder) or [f"{manifest.get('rows_out', 0):,} rows"]
        say(f"{stage.name}: {'; '.join(told)}; {seconds:.1f} s")
        if dropped:
            say(f"{stage.name}: {shown_drops(dropped, rows)}")
    for text in concerns(manifest):
        say(f"warning: {text}")


def _tell_changes(folder: StageFolder, config: Any, key: str) -> None:
    """A line where a finished stage is about to be replaced, and why."""
    before = folder.own_record() or {}
    if not before.get("files") or before.get("key") == key:
        return
    keys = changed_keys(before.get("config") or {}, config.model_dump(mode="json"))
    why = f"{', '.join(keys)} changed" if keys else "its input, seed, model or version changed"
    notice(f"{folder.path}: done anew, since {why}")
