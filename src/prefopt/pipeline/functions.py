"""Each stage as a function of a table: `prefopt.sample`, `judge`, `rank`, `reference`, `select`, `weight`, `train`, `evaluate`.

A dataset is a `datasets.Dataset`, a pandas DataFrame, a list of dicts, the path of a file or a stage's folder; a table
that does not have our columns yet is read as stage 00 reads a file. Settings are those of the stage in a recipe, by
keyword. Without `output` nothing is kept on disk; with it the folder is that of the stage's verb on the command line,
and a finished one is not done again. A setting that names a loss, a judge, an engine or a rule also takes a function.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.core.plugins import load_installed
from prefopt.core.settings import parse_config
from prefopt.models.given import given_model
from prefopt.stages.alone import Opened, open_input, run_alone
from prefopt.stages.data.chat import for_model
from prefopt.stages.data.data import data as read_data
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.stage import Stage
from prefopt.stages.train.settings import CALLBACKS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.foreign import foreign_rows, is_path, rows_digest
from prefopt.tables.records import make_table, require

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("prefopt")
OURS = ("id", "prompt_id", "prompt")  # columns of a table that has been read


@dataclass(frozen=True)
class Result:
    """What `train` and `evaluate` give: the stage's table, figures, rows dropped by reason, and, of `train`, the model.

    model_path: directory of the trained model, None where none was kept. model, tokenizer: the trained model in memory,
    where it was not kept on disk.
    """

    table: Dataset
    figures: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    model_path: Path | None = None
    model: Any = None
    tokenizer: Any = None


def load_dataset(
    source: Any, *, output: str | Path | None = None, seed: int = 0, strict: bool = False, **settings: Any
) -> Dataset:
    """Any known form of prompts, completions or pairs as a table in our columns (stage 00).

    source: a file, a hub name, `builtin:NAME`, a Dataset, a DataFrame or a list of dicts. settings: of `data` in a
    recipe; `heldout` is 0.1 unless set: the share of prompts with split "eval". Rows that are of no use are dropped, and
    counted by reason on the logger `prefopt`.

    Raises:
        PrefoptError: an unknown form, no row left, a bad setting; with strict, any bad row.
    """
    load_installed()
    if is_path(source):
        settings = {**settings, "path": str(source)}
    config = parse_config(DataConfig, settings, "prefopt.load_dataset")
    context = Context(seed=seed, strict=strict)
    if output is not None:
        if not is_path(source):
            raise PrefoptError(
                "prefopt.load_dataset: output is for files; give the path of one, or leave output out"
            )
        return _told("data", run_alone(_stage("data"), config, str(source), Path(output), context)).table
    rows = None if is_path(source) else foreign_rows(source)
    return _told("data", read_data(rows, config, context)).table


def sample(
    dataset: Any,
    *,
    model: Any = None,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """One row per completion of the prompts (stage 01). model: a directory, a name, or a model in memory (with its tokenizer: a pair).

    settings: of `sample` in a recipe, e.g. n=8, temperature=0.8, max_new_tokens=256.

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    return _run("sample", dataset, _Call(settings, model, output, seed, strict)).table


def judge(
    dataset: Any,
    *,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """Completions with `is_correct`, `score`, answer classes and statistics per prompt (stage 02).

    settings: of `judge` in a recipe; `kind` also takes a function check(prompt, completion, row).

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    return _run("judge", dataset, _Call(settings, None, output, seed, strict)).table


def rank(
    dataset: Any,
    *,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """Pairs (chosen, rejected) from judged completions (stage 03).

    settings: of `rank` in a recipe; `judge` also takes a function of one comparison, or a class.

    Raises:
        PrefoptError: bad settings or rows, or no pair; names what and the remedy.
    """
    return _run("rank", dataset, _Call(settings, None, output, seed, strict)).table


def reference(
    dataset: Any,
    *,
    model: Any = None,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """Pairs (or unpaired completions) with the log-probs of `model`, nats, and token counts (stage 04).

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    return _run("reference", dataset, _Call(settings, model, output, seed, strict)).table


def select(
    dataset: Any,
    *,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """All pairs, with `kept` true for those that the reference model shows to be clear (stage 05).

    settings: of `select` in a recipe; `rule` also takes a function keep(scores, count, limit).

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    return _run("select", dataset, _Call(settings, None, output, seed, strict)).table


def weight(
    dataset: Any,
    *,
    completions: Any = None,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Dataset:
    """Pairs with a `weight` each (stage 06). completions: the judged completions, for figures over all prompts.

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    inputs = {} if completions is None else {"completions": _opened("weight", completions, Context()).table}
    return _run("weight", dataset, _Call(settings, None, output, seed, strict, inputs)).table


def train(
    dataset: Any,
    *,
    model: Any,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    callbacks: Any = (),
    **settings: Any,
) -> Result:
    """Train `model` on the pairs (stage 07); the table is the history of the training.

    With `output` the model lies at `OUTPUT/model` and a killed training continues; without, it is in `Result.model`.
    callbacks: of transformers' Trainer. settings: of `train` in a recipe; `loss` also takes a function.

    Raises:
        PrefoptError: bad settings or rows, or NaN while training; names what and the remedy.
    """
    inputs = {CALLBACKS: list(callbacks)}
    if output is not None:
        done = _run("train", dataset, _Call(settings, model, output, seed, strict, inputs))
        return Result(done.table, done.quality, done.dropped, Path(output) / "model")
    from prefopt.models.load import load_model, load_tokenizer

    with tempfile.TemporaryDirectory(prefix="prefopt-") as folder:
        done = _run("train", dataset, _Call(settings, model, folder, seed, strict, inputs))
        found = Path(folder) / "model"
        table = make_table(foreign_rows(done.table))  # the file it lies on goes
        return Result(table, done.quality, done.dropped, None, load_model(found), load_tokenizer(found))


def evaluate(
    dataset: Any,
    *,
    model: Any = None,
    prompts: Any = None,
    output: str | Path | None = None,
    seed: int = 0,
    strict: bool = False,
    **settings: Any,
) -> Result:
    """Accuracy on test prompts and ranking of held-out pairs (stage 08).

    dataset: pairs (of which split "eval" is held out; pairs="all" takes all) or test prompts. prompts: test prompts
    beside pairs.

    Raises:
        PrefoptError: bad settings or rows; names what and the remedy.
    """
    tables = {} if prompts is None else {"prompts": prompts}
    done = _run("evaluate", dataset, _Call(settings, model, output, seed, strict, tables=tables))
    return Result(done.table, done.quality, done.dropped)


# ---- one stage


@dataclass(frozen=True)
class _Call:
    settings: dict[str, Any]
    model: Any
    output: str | Path | None
    seed: int
    strict: bool
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)  # further inputs that are read as the data is


def _stage(name: str) -> Stage:
    stage: Stage = import_module(f"prefopt.stages.{name}.{name}").STAGE
    return stage


def _run(name: str, dataset: Any, call: _Call) -> StageOutput:
    load_installed()
    stage = _stage(name)
    config = parse_config(stage.config, _named(name, call.settings), f"prefopt.{name}")
    context = Context(seed=call.seed, strict=call.strict, inputs=call.inputs)
    with tempfile.TemporaryDirectory(prefix="prefopt-") as scratch:
        if stage.wants_model(config):
            if call.model is None:
                raise PrefoptError(f"prefopt.{name}: no model; give model=DIRECTORY or a model in memory")
            path = given_model(call.model, Path(scratch) / "model")
            context = Context(call.seed, path, None, call.strict, call.inputs)
        # after the model is known: text prompts become messages where it has a chat template
        opened = _opened(name, dataset, context)
        more = {key: _opened(name, given, context).table for key, given in call.tables.items()}
        context = replace(context, inputs={**call.inputs, **more})
        if call.output is not None:
            return _told(name, run_alone(stage, config, opened, Path(call.output), context))
        require(opened.table, stage.reads, f"prefopt.{name}")
        done = stage.run(opened.table, config, context)
        dropped = {**opened.dropped, **done.dropped}
        return _told(name, StageOutput(done.table, dropped, done.quality, done.failed))


def _opened(name: str, given: Any, context: Context) -> Opened:
    """The table of what a function is given, its key, and what was dropped when it was read."""
    if is_path(given):
        return open_input(str(given), context)
    rows = foreign_rows(given, f"prefopt.{name}")
    if not rows:
        raise PrefoptError(f"prefopt.{name}: the table is empty; give rows")
    key = rows_digest(rows)
    if all(column in rows[0] for column in OURS):
        return Opened(make_table(rows), key)
    config = for_model(DataConfig(heldout=0.0), context.model)  # type: ignore[call-arg]
    read = read_data(rows, config, Context(context.seed, strict=context.strict))
    return Opened(read.table, key, read.dropped)


def _told(name: str, done: StageOutput) -> StageOutput:
    """Rows that are dropped are said, as the command line says them."""
    if done.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(done.dropped.items()))
        logger.warning("%s: rows dropped: %s", name, reasons)
    return done


# ---- functions in place of names


def _named(stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which functions are registered under their own names."""
    place = {
        "sample": "engine",
        "judge": "kind",
        "rank": "judge",
        "select": "rule",
        "evaluate": "verifier",
    }.get(stage)
    given = settings.get(place) if place else None
    if stage == "train":
        return {**settings, "loss": _losses(settings["loss"])} if "loss" in settings else settings
    if place is None or not callable(given):
        return settings
    name = _register(stage, given)
    return {**settings, place: {"kind": name} if place in ("judge", "verifier") else name}


def _losses(given: Any) -> Any:
    if isinstance(given, list | tuple):
        return [_losses(one) for one in given]
    if isinstance(given, Mapping) and callable(given.get("name")):
        return {**given, "name": _register("train", given["name"])}
    return _register("train", given) if callable(given) else given


def _register(stage: str, function: Callable[..., Any]) -> str:
    from prefopt.engines import register_engine
    from prefopt.judges import register_judge
    from prefopt.losses import register_loss
    from prefopt.rules.selection import register_rule
    from prefopt.verify import register_verifier

    name = str(getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))
    if stage == "train":
        from prefopt.losses import LOSSES

        if LOSSES.get(name) is not function:
            register_loss(name)(function)
        return name
    register: dict[str, Callable[[str], Callable[..., Any]]] = {
        "sample": register_engine,
        "judge": register_verifier,
        "evaluate": register_verifier,
        "rank": register_judge,
        "select": register_rule,
    }
    register[stage](name)(function)
    return name
