"""The command line: `prefopt run RECIPE` and one verb per stage, all with the same `--key value` overrides."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefopt import __version__
from prefopt.cli.verbs import RETRY, VERBS, print_failed, run_verb, stage_of
from prefopt.core.errors import PrefoptError
from prefopt.suite.commands import suite_app

if TYPE_CHECKING:
    from prefopt.core.settings import Config

# verbs that are no stage: module and class of their settings, usage
CHECKS = {
    "check": ("prefopt.tools.check.check", "CheckConfig", "FILE [--test FILE] [--output DIR]"),
    "judge-check": ("prefopt.tools.judge_check", "JudgeCheckConfig", "--input LABELLED [--output DIR]"),
}
# every word that is no option of the verb itself is an override '--key value'
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Preference optimization as one pipeline: sample, judge, rank, select, weigh, train, evaluate, report.",
)
Seed = Annotated[int, typer.Option(help="seed of the stage")]
Strict = Annotated[bool, typer.Option("--strict", help="bad rows are errors instead of counted drops")]
Retry = Annotated[
    bool, typer.Option(RETRY, help="ask the rows again that a server gave up on, and no others")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML with the stage's settings, or a whole recipe")
]
Model = Annotated[str | None, typer.Option(help="model directory, builtin:quickstart/base or a hub name")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    if version:
        typer.echo(f"prefopt {__version__}")
        raise typer.Exit


@app.command("run", context_settings=OPEN)
def run_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file (YAML), or the name of a packaged recipe")],
    data: Annotated[str | None, typer.Option(help="input in place of the recipe's data.path")] = None,
    output: Annotated[Path | None, typer.Option(help="run folder (default runs/NAME)")] = None,
    model: Model = None,
    strict: Strict = False,
    retry_failed: Retry = False,
) -> None:
    """Run every stage of a recipe; other settings by --stage.key value, e.g. --train.learning_rate 1e-5."""
    from prefopt.core.settings import merge, parse_overrides
    from prefopt.pipeline.recipe import load_recipe
    from prefopt.pipeline.run import run
    from prefopt.report import write_report
    from prefopt.report.summary import print_summary

    overrides = parse_overrides(context.args)
    if data is not None:
        overrides = merge(overrides, {"data": {"path": data}})
    if model is not None:
        overrides["model"] = model
    loaded = load_recipe(recipe, overrides)
    folder = output or Path("runs") / loaded.name
    summary = run(loaded, folder, strict=strict, retry_failed=retry_failed)
    path = write_report(folder)
    print_summary(summary, path)
    for place, failed in summary["failed"].items():
        print_failed(failed, f"{place}: ")


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="folder of a finished run")]) -> None:
    """Write report.html of a run anew."""
    from prefopt.report import write_report

    typer.echo(write_report(folder))


@app.command("inspect")
def inspect_command(
    source: Annotated[str, typer.Option("--input", help="pairs: Parquet, stage folder or data file")],
    model: Annotated[str, typer.Option(help="model directory whose tokenizer and chat template count")],
    row: Annotated[str, typer.Option(help="row number from 0, or an id")] = "0",
    max_length: Annotated[int, typer.Option(help="truncation, tokens")] = 1024,
) -> None:
    """Print a row as the model sees it: tokens, mask, which tokens count."""
    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_tokenizer
    from prefopt.stages.alone import open_input
    from prefopt.tables.context import Context
    from prefopt.tables.records import rows_of
    from prefopt.tools.inspect import describe_row

    rows = rows_of(open_input(source, Context()).table)
    chosen = _pick(rows, row, source)
    typer.echo(describe_row(chosen, load_tokenizer(resolve_model(model)), max_length=max_length))


@app.command("check", context_settings=OPEN)
def check_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="data file of any form that `prefopt data` reads")],
    test: Annotated[str | None, typer.Option(help="test file whose prompts must not be in it")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the cleaned copy and check.json")] = None,
) -> None:
    """Look for repeated, empty, contradictory, contaminated rows and more; settings by --key value (docs/checking.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tools.check.check import check, print_check, write_check
    from prefopt.tools.check.settings import CheckConfig

    config = parse_config(CheckConfig, parse_overrides(context.args), "prefopt check")
    result = check(file, config, test=test)
    print_check(result.report)
    if output is not None:
        typer.echo(f"{result.report['rows_kept']} rows kept -> {write_check(result, output)}")


@app.command("merge-adapter")
def merge_command(
    adapter: Annotated[Path, typer.Option(help="directory of the adapter (PEFT)")],
    output: Annotated[Path, typer.Option(help="directory to write the merged model to")],
    model: Annotated[str | None, typer.Option(help="base model (default: the one the adapter names)")] = None,
) -> None:
    """Merge an adapter into its base model and write the result as a model of its own."""
    from prefopt.tools.merge import merge_adapter

    typer.echo(merge_adapter(adapter, output, model=model))


@app.command("judge-check", context_settings=OPEN)
def judge_check_command(
    context: typer.Context,
    source: Annotated[str, typer.Option("--input", help="labelled pairs: prompt, chosen, rejected")],
    output: Annotated[Path | None, typer.Option(help="folder for judge-check.json and the verdicts")] = None,
    seed: Seed = 0,
) -> None:
    """Measure a pairwise judge on labelled pairs: --judge KIND, --judge.key value (docs/checking.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.stages.rank.estimate import judge_words
    from prefopt.tables.context import Context
    from prefopt.tools.judge_check import JudgeCheckConfig, judge_check, print_judge_check, write_judge_check

    words, _ = judge_words(context.args)
    config = parse_config(JudgeCheckConfig, parse_overrides(words), "prefopt judge-check")
    journal = output / "verdicts.jsonl" if output else None
    found = judge_check(source, config, Context(seed=seed), journal=journal)
    print_judge_check(found.figures)
    if output is not None:
        typer.echo(write_judge_check(found, output))


losses_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="List or plot losses.",
)
app.add_typer(losses_app, name="losses")


@losses_app.command("plot")
def plot_command(
    names: Annotated[list[str] | None, typer.Argument(help="losses, e.g. dpo ipo hinge")] = None,
    output: Annotated[Path, typer.Option(help="SVG file to write")] = Path("losses.svg"),
    file: Annotated[
        list[Path] | None, typer.Option(help="exported mirror loss (JSON); may be repeated")
    ] = None,
) -> None:
    """Draw value and slope against the margin; for mirror losses also phi_inv, psi and g."""
    from prefopt.tables.records import atomic_file
    from prefopt.tools.plot_losses import plot_losses

    drawn = plot_losses(names or [], file or [])
    with atomic_file(output) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    typer.echo(output)


@losses_app.callback()
def losses_command(context: typer.Context) -> None:
    """List every loss: name, what it needs, hyperparameters with defaults, formula, paper."""
    if context.invoked_subcommand is not None:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from prefopt.losses.table import list_losses

    table = Table(box=box.SIMPLE)
    for title in ("name", "kind", "needs", "defaults", "formula", "paper"):
        table.add_column(title, overflow="fold")
    for entry in list_losses():
        defaults = ", ".join(f"{k}={v}" for k, v in entry["hyperparameters"].items())
        cells = (
            entry["name"],
            entry["kind"],
            ", ".join(entry["needs"]),
            defaults,
            entry["formula"],
            entry["paper"],
        )
        table.add_row(*(str(cell).replace("[", r"\[") for cell in cells))
    Console().print(table)


def _pick(rows: list[dict[str, Any]], which: str, source: str) -> dict[str, Any]:
    found = [row for row in rows if row["id"] == which]
    if found:
        return found[0]
    if which.isdigit() and int(which) < len(rows):
        return rows[int(which)]
    raise PrefoptError(f"{source}: no row {which!r}; give a number from 0 to {len(rows) - 1} or an id")


def _add_stage_command(verb: str, about: str) -> None:
    def command(
        context: typer.Context,
        source: Annotated[str, typer.Option("--input", help="Parquet file, stage folder or data file")],
        output: Annotated[Path | None, typer.Option(help="folder to write")] = None,
        config: ConfigFile = None,
        model: Model = None,
        seed: Seed = 0,
        strict: Strict = False,
        retry_failed: Retry = False,
    ) -> None:
        run_verb(verb, source, output, (config, model, seed, strict, retry_failed), context.args)

    command.__doc__ = (
        f"{about[0].upper()}{about[1:]}. Settings by --key value; `prefopt help {verb}` lists them."
    )
    app.command(verb, context_settings=OPEN)(command)


@app.command("help")
def help_command(verb: Annotated[str, typer.Argument(help="a verb, e.g. select or check")]) -> None:
    """List the settings of a verb with default and meaning."""
    from prefopt.core.errors import nearest

    if verb not in VERBS and verb not in CHECKS:
        raise PrefoptError(f"prefopt help: no verb {verb!r}, {nearest(verb, (*VERBS, *CHECKS))}")
    if verb in CHECKS:
        module, name, usage = CHECKS[verb]
        kind, about = getattr(importlib.import_module(module), name), ""
    else:
        stage = stage_of(verb)
        kind, about, usage = stage.config, f"{stage.about}\n", "--input X --output DIR"
    typer.echo(f"prefopt {verb} {usage} [--key value ...]\n{about}")
    for line in _settings_lines(kind):
        typer.echo(line)


def _settings_lines(kind: type[Config], prefix: str = "") -> Iterator[str]:
    """One line per setting; those of the pairwise judge follow its own."""
    for name, info in kind.model_fields.items():
        default = (
            "required" if info.is_required() else f"default {info.get_default(call_default_factory=True)!r}"
        )
        yield f"  --{prefix + name:<24} {info.description or ''} ({default})"
        if name == "judge":
            from prefopt.judges import PairwiseJudgeConfig

            yield from _settings_lines(PairwiseJudgeConfig, "judge.")


app.add_typer(suite_app, name="suite")
for _verb, _about in VERBS.items():
    _add_stage_command(_verb, _about)


def leave_group() -> None:
    """Part from the other processes of a distributed run; one that just ends may abort, or keep the others waiting."""
    if "torch.distributed" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    """Entry point: bad input is one line and exit code 2, never a traceback."""
    # several stages load models in one process; the tokenizers' own threads would warn after a fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        try:
            app()
        except SystemExit as end:
            if not end.code:
                leave_group()
            raise
    except PrefoptError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
    except OSError as error:
        where = error.filename or "output"
        sys.stderr.write(
            f"error: {where}: {error.strerror or error}; check that it exists and can be read and written\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to continue\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
