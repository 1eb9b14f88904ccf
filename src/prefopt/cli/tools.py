"""Verbs that are no stage: a row as the model sees it, checks of data and judges, adapters, losses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from prefopt.cli.registry import OPEN
from prefopt.cli.verbs import Seed
from prefopt.core.errors import PrefoptError
from prefopt.core.terminal import console


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
    from prefopt.stages.data.chat import in_messages
    from prefopt.tables.context import Context
    from prefopt.tables.records import rows_of
    from prefopt.tools.inspect import describe_row

    directory = resolve_model(model)
    table = in_messages(open_input(source, Context(model=directory)).table, directory, "inspect")
    chosen = _pick(rows_of(table), row, source)
    typer.echo(describe_row(chosen, load_tokenizer(directory), max_length=max_length))


def check_command(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="data file of any form that `prefopt data` reads")],
    test: Annotated[str | None, typer.Option(help="test file whose prompts must not be in it")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the cleaned copy and check.json")] = None,
) -> None:
    """Look for repeated, empty, contradictory, contaminated rows and more; settings by --key value (docs/checking.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tools.check.check import check, check_output, print_check, write_check
    from prefopt.tools.check.settings import CheckConfig

    config = parse_config(CheckConfig, parse_overrides(context.args), "prefopt check")
    if output is not None:
        check_output(file, output)  # before the work
    result = check(file, config, test=test)
    print_check(result.report)
    if output is not None:
        typer.echo(f"{result.report['rows_kept']} rows kept -> {write_check(result, output)}")


def advise_command(
    context: typer.Context,
    file: Annotated[
        str, typer.Option("--data", help="pairs: any file that `prefopt data` reads, or a folder of a stage")
    ],
    model: Annotated[
        str | None, typer.Option(help="model directory whose log-probs show noise and near-equal pairs")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for advice.json")] = None,
    seed: Seed = 0,
) -> None:
    """Estimate label noise, near-equal pairs, length bias; say which methods held on such data (docs/advise.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.models.find import resolve_model
    from prefopt.tables.context import Context
    from prefopt.tools.advise.advise import advice_folder, advise, print_advice, write_advice
    from prefopt.tools.advise.settings import AdviseConfig

    config = parse_config(AdviseConfig, parse_overrides(context.args), "prefopt advise")
    if output is not None:
        advice_folder(file, output)  # before the work
    found = advise(file, config, Context(seed=seed, model=resolve_model(model) if model else None))
    print_advice(found)
    if output is not None:
        typer.echo(f"-> {write_advice(found, output)}")


def merge_command(
    adapter: Annotated[Path, typer.Option(help="directory of the adapter (PEFT)")],
    output: Annotated[Path, typer.Option(help="directory to write the merged model to")],
    model: Annotated[str | None, typer.Option(help="base model (default: the one the adapter names)")] = None,
) -> None:
    """Merge an adapter into its base model and write the result as a model of its own."""
    from prefopt.tools.merge import merge_adapter

    typer.echo(merge_adapter(adapter, output, model=model))


def judge_check_command(
    context: typer.Context,
    source: Annotated[str, typer.Option("--input", help="labelled pairs: prompt, chosen, rejected")],
    output: Annotated[Path | None, typer.Option(help="folder for judge-check.json and the verdicts")] = None,
    seed: Seed = 0,
) -> None:
    """Measure a pairwise judge on labelled pairs: --judge KIND, --judge.key value (docs/checking.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tables.context import Context
    from prefopt.tools.judge_check import (
        JOURNAL,
        JudgeCheckConfig,
        judge_check,
        judge_check_folder,
        print_judge_check,
        write_judge_check,
    )

    config = parse_config(JudgeCheckConfig, parse_overrides(context.args), "prefopt judge-check")
    if output is None:
        print_judge_check(judge_check(source, config, Context(seed=seed)).figures)
        return
    with judge_check_folder(source, output):
        found = judge_check(source, config, Context(seed=seed), journal=output / JOURNAL)
        print_judge_check(found.figures)
        typer.echo(write_judge_check(found, output))


def verify_command(
    folder: Annotated[Path, typer.Argument(help="folder of a run, or of a stage")],
) -> None:
    """Compare every file that a run has on record with its size and SHA-256; exit code 1 if any is damaged.

    The next `prefopt run` does damaged stages anew.
    """
    from prefopt.tools.integrity import verified_lines, verify

    found = verify(folder)
    for line in verified_lines(folder, found):
        typer.echo(line)
    if found.damaged:
        raise typer.Exit(1)


losses_app = typer.Typer(invoke_without_command=True, help="List losses, show one or plot them.")


def show_loss(name: str) -> None:
    """Prints what the table holds of a loss, and the card of a discovered one. Raises PrefoptError for an unknown name."""
    from prefopt.losses.discovered import card
    from prefopt.losses.table import find_loss, list_losses

    found = find_loss(name).name
    entry = next(entry for entry in list_losses() if entry["name"] == found)
    for key, value in entry.items():
        typer.echo(f"{key}: {_brief(value)}")
    if text := card(found):
        typer.echo(f"\n{text.rstrip()}")


def _brief(value: Any) -> str:
    """A value in a line: learned tables by their shape."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_brief(item)}" for key, item in value.items())
    if isinstance(value, list) and value and isinstance(value[0], list):
        return f"[{len(value)} x {len(value[0])}]"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@losses_app.command("plot")
def plot_command(
    names: Annotated[list[str] | None, typer.Argument(help="losses, e.g. dpo ipo hinge")] = None,
    output: Annotated[Path, typer.Option(help="SVG file to write")] = Path("losses.svg"),
    file: Annotated[
        list[Path] | None, typer.Option(help="exported mirror loss (JSON); may be repeated")
    ] = None,
) -> None:
    """Draw value and slope against the margin; for mirror losses also phi_inv, psi and g."""
    from prefopt.tables.ours import check_file
    from prefopt.tables.records import atomic_file
    from prefopt.tools.plot_losses import plot_losses

    check_file(output)
    drawn = plot_losses(names or [], file or [])
    with atomic_file(output) as temporary:
        temporary.write_text(drawn, encoding="utf-8")
    typer.echo(output)


@losses_app.callback()
def losses_command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="one loss, e.g. dpo: everything known of it")] = None,
) -> None:
    """List every loss: name, what it needs, hyperparameters with defaults, formula, paper; or show one."""
    if context.invoked_subcommand is not None:
        return
    if name is not None:
        show_loss(name)
        return
    from rich import box
    from rich.table import Table

    from prefopt.losses.table import list_losses

    table = Table(box=box.SIMPLE)
    for title in ("name", "kind", "needs", "defaults", "formula", "paper"):
        table.add_column(title, overflow="fold")
    for entry in list_losses():
        defaults = _brief(entry["hyperparameters"])
        cells = (
            entry["name"],
            entry["kind"],
            ", ".join(entry["needs"]),
            defaults,
            entry["formula"],
            entry["paper"],
        )
        table.add_row(*(str(cell).replace("[", r"\[") for cell in cells))
    console().print(table)


def _pick(rows: list[dict[str, Any]], which: str, source: str) -> dict[str, Any]:
    found = [row for row in rows if row["id"] == which]
    if found:
        return found[0]
    # other digits (of other scripts, superscripts) are no numbers here
    if re.fullmatch(r"[0-9]{1,18}", which) and int(which) < len(rows):
        return rows[int(which)]
    raise PrefoptError(f"{source}: no row {which!r}; give a number from 0 to {len(rows) - 1} or an id")


def add_to(app: typer.Typer) -> None:
    """Declare these verbs."""
    app.command("inspect")(inspect_command)
    app.command("check", context_settings=OPEN)(check_command)
    app.command("advise", context_settings=OPEN)(advise_command)
    app.command("verify")(verify_command)
    app.command("merge-adapter")(merge_command)
    app.command("judge-check", context_settings=OPEN)(judge_check_command)
    app.add_typer(losses_app, name="losses")
