"""A verb of the command line: settings from file and words, the stage alone on its input, its figures printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefopt.cli.registry import OPEN, WITHOUT
from prefopt.core.errors import PrefoptError
from prefopt.core.plugins import load_plugins, names_of

if TYPE_CHECKING:
    from prefopt.core.settings import Config
    from prefopt.stages.stage import Stage

VERBS = {
    "data": "read a file of prompts, completions or pairs and write it as a table",
    "sample": "sample N completions per prompt",
    "judge": "extract and check final answers, or score by a reward model; statistics per prompt",
    "rank": "make pairs from judged completions",
    "reference": "reference log-probs of every pair, kept in a store",
    "select": "keep the pairs that the reference model shows to be clear",
    "weigh": "give every pair a weight (difficulty)",
    "train": "train a model on the pairs",
    "train-reward": "train a reward model (scalar or pairwise) on pairs",
    "evaluate": "accuracy and held-out pair accuracy of a model",
}
STAGE_OF = {"weigh": "weight"}
RETRY = "--retry-failed"
MODEL_VERBS = ("sample", "reference", "train", "train-reward", "evaluate")  # --model is theirs, not a setting
Seed = Annotated[int, typer.Option(help="seed of the stage")]
Strict = Annotated[bool, typer.Option("--strict", help="bad rows are errors instead of counted drops")]
Retry = Annotated[
    bool, typer.Option(RETRY, help="ask the rows again that a server gave up on, and no others")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML with the stage's settings, or a whole recipe")
]
Model = Annotated[str | None, typer.Option(help="model directory, builtin:quickstart/base or a hub name")]
Estimate = Annotated[
    bool, typer.Option("--dry-run", help="print the calls and tokens it would take, and ask no judge")
]


def add_to(app: typer.Typer) -> None:
    """Declare one verb per stage."""
    for verb, about in VERBS.items():
        _add_stage_command(app, verb, about)


def _add_stage_command(app: typer.Typer, verb: str, about: str) -> None:
    def command(
        context: typer.Context,
        source: Annotated[str, typer.Option("--input", help="Parquet file, stage folder or data file")],
        output: Annotated[Path | None, typer.Option(help="folder to write")] = None,
        config: ConfigFile = None,
        model: Model = None,
        seed: Seed = 0,
        strict: Strict = False,
        retry_failed: Retry = False,
        dry_run: Estimate = False,
    ) -> None:
        options = (config, model, seed, strict, retry_failed, dry_run)
        run_verb(verb, source, output, options, context.args)

    command.__doc__ = f"{about[0].upper()}{about[1:]}."
    without = {"model"} - ({"model"} if verb in MODEL_VERBS else set())
    WITHOUT[(verb,)] = frozenset(without | (set() if verb == "rank" else {"dry_run"}))
    app.command(verb, context_settings=OPEN)(command)


def run_verb(
    verb: str,
    source: str,
    output: Path | None,
    options: tuple[Path | None, str | None, int, bool, bool, bool],
    words: list[str],
) -> None:
    """Run one stage on one input. options: settings file, model, seed, strict, retry_failed, dry_run; words: `--key value`.

    Raises:
        PrefoptError: bad settings or input, with the remedy.
    """
    from prefopt.core.settings import load_yaml, merge, parse_config, parse_overrides
    from prefopt.stages.alone import run_alone
    from prefopt.tables.context import Context

    file, model, seed, strict, retry_failed, dry_run = options
    stage = stage_of(verb)
    given = load_yaml(file) if file else {}
    load_plugins(names_of(given.pop("plugins", None)), file.parent if file else None)
    settings = _section(given, stage) if file else {}
    if stage.name == "rank" and isinstance(settings.get("judge"), str):
        settings["judge"] = {"kind": settings["judge"]}
    settings = merge(settings, parse_overrides(words))
    if stage.name == "data":
        settings["path"] = source
    config = parse_config(stage.config, settings, str(file) if file else f"prefopt {verb}")
    if dry_run:
        return _print_estimate(config, source, seed)
    if output is None:
        raise PrefoptError(f"prefopt {verb}: where to? give --output DIR")
    path = _reward_base(model, source, output, seed) if verb == "train-reward" else _model_path(model)
    context = Context(seed=seed, model=path, strict=strict, inputs=_verb_inputs(stage, config, seed, strict))
    result = run_alone(stage, config, source, output, context, retry_failed=retry_failed)
    _print_result(result, output)
    print_failed(result.failed)


def _print_estimate(config: Any, source: str, seed: int) -> None:
    from prefopt.stages.alone import open_input
    from prefopt.stages.rank.estimate import estimate, show_estimate
    from prefopt.tables.context import Context
    from prefopt.tables.records import rows_of

    context = Context(seed=seed)
    typer.echo(show_estimate(estimate(rows_of(open_input(source, context).table), config, context)))


def stage_of(verb: str) -> Stage:
    """The stage behind a verb; `train-reward` is one that no recipe runs."""
    from prefopt.pipeline.run import BY_NAME
    from prefopt.tools.reward import train_reward

    return train_reward.STAGE if verb == "train-reward" else BY_NAME[STAGE_OF.get(verb, verb)]


def _reward_base(model: str | None, source: str, output: Path, seed: int) -> Path | None:
    from prefopt.tools.reward.train_reward import base_model

    return None if model is None else base_model(model, source, output, seed)


def _verb_inputs(stage: Stage, config: Config, seed: int, strict: bool) -> dict[str, Any]:
    """`evaluate` alone reads its test prompts here; in a run the pipeline does."""
    from prefopt.stages.data.data import data
    from prefopt.tables.context import Context

    test = getattr(config, "data", None) if stage.name == "evaluate" else None
    return {"prompts": data(None, test, Context(seed=seed, strict=strict)).table} if test else {}


def _section(settings: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """The stage's settings, from its own file or from a whole recipe."""
    inner = settings.get(stage.name)
    is_recipe = (
        "model" in settings
        or "arms" in settings
        or (isinstance(inner, dict) and stage.name not in stage.config.model_fields)
    )
    return dict(inner or {}) if is_recipe else settings


def _model_path(model: str | None) -> Path | None:
    if model is None:
        return None
    from prefopt.models.find import resolve_model

    return resolve_model(model)


def _print_result(result: Any, output: Path) -> None:
    """What came of the stage: in words, then what was dropped and why, then every figure of the manifest."""
    from prefopt.stages.results import result_lines
    from prefopt.tables.folder import StageFolder

    for line in result_lines(StageFolder(output)):
        typer.echo(line)
    typer.echo(f"{result.table.num_rows} rows -> {output}")
    for reason, count in sorted(result.dropped.items()):
        typer.echo(f"  dropped {count}: {reason}")
    for name, value in result.quality.items():
        text = _shown(value)
        if text:
            typer.echo(f"  {name}: {text}")


def print_failed(failed: int, where: str = "") -> None:
    """One line where rows failed: how many, and the command that asks them again (the one that was given, and a flag)."""
    if failed:
        words = [word for word in sys.argv[1:] if word != RETRY]
        again = shlex.join(["prefopt", *words, RETRY])
        typer.echo(f"{where}{failed} rows failed (server gave up); ask them again: {again}")


def _shown(value: Any) -> str:
    """A figure or a share with its interval as one short text; nothing for tables and lists."""
    if isinstance(value, dict) and {"mean", "low", "high", "n"} <= set(value):
        if value["mean"] is None:
            return ""
        if value["low"] is None:  # of one prompt
            return f"{value['mean']:.3f} (n {value['n']})"
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}] (n {value['n']})"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
