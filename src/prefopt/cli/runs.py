"""`prefopt run`, its report, and the packaged recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefopt.cli.registry import OPEN
from prefopt.cli.verbs import Model, Retry, Strict, print_failed
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process

if TYPE_CHECKING:
    from prefopt.pipeline.recipe import Recipe

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="print stages, rows, steps, memory and time of the run; write nothing"),
]
recipes_app = typer.Typer(invoke_without_command=True, help="List, show and describe packaged recipes.")


def run_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file (YAML), or the name of a packaged recipe")],
    data: Annotated[str | None, typer.Option(help="input in place of the recipe's data.path")] = None,
    output: Annotated[Path | None, typer.Option(help="run folder; null: runs/NAME")] = None,
    model: Model = None,
    strict: Strict = False,
    retry_failed: Retry = False,
    dry_run: DryRun = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace another recipe's run in the folder")
    ] = False,
) -> None:
    """Run every stage of a recipe, compare its arms, and write report.html and summary.json.

    The same command again continues a run that was stopped, and does nothing anew that is done.
    """
    from prefopt.core.settings import merge, parse_overrides
    from prefopt.pipeline.recipe import load_recipe

    overrides = parse_overrides(context.args)
    if data is not None:
        overrides = merge(overrides, {"data": {"path": data}})
    if model is not None:
        overrides["model"] = model
    loaded = load_recipe(recipe, overrides)
    folder = output or Path("runs") / loaded.name
    if dry_run:
        _print_plan(loaded, folder, strict=strict, overwrite=overwrite)
        return
    run = _runner(loaded)
    summary = run(loaded, folder, strict=strict, retry_failed=retry_failed, overwrite=overwrite)
    if not is_first_process():
        return
    _print_result(loaded, summary)
    # last: the summary is printed and saved whatever happens to the page
    from prefopt.report import write_report
    from prefopt.tables.records import is_writable

    typer.echo(write_report(folder) if is_writable(folder) else f"{folder}: read-only, nothing was written")


def _runner(recipe: Recipe) -> Any:
    """What runs a recipe: as it is, with each of its seeds, or with a sweep before."""
    if recipe.sweep is not None:
        from prefopt.pipeline.sweep import run_sweep

        return run_sweep
    if recipe.seeds:
        from prefopt.pipeline.seeds import run_seeds

        return run_seeds
    from prefopt.pipeline.run import run

    return run


def _print_result(recipe: Recipe, summary: dict[str, Any]) -> None:
    from prefopt.report.over_seeds import print_seeds
    from prefopt.report.summary import print_summary
    from prefopt.report.sweep import sweep_lines

    (print_seeds if recipe.seeds else print_summary)(summary)
    for line in sweep_lines(summary.get("sweep")):
        typer.echo(line)
    for place, failed in summary.get("failed", {}).items():
        print_failed(failed, f"{place}: ")


def _print_plan(recipe: Recipe, folder: Path, *, strict: bool, overwrite: bool) -> None:
    from prefopt.pipeline.folder import check_run
    from prefopt.pipeline.plan import plan, probe
    from prefopt.pipeline.plan_text import plan_text
    from prefopt.pipeline.seeds import SEEDS, with_seed

    check_run(folder, recipe, overwrite=overwrite)
    if recipe.sweep is not None:
        recipe = _print_sweep_plan(recipe, folder, strict=strict)
    one = with_seed(recipe, recipe.seeds[0]) if recipe.seeds else recipe
    place = folder / SEEDS / str(one.seed) if recipe.seeds else folder
    found = plan(one, place, strict=strict)
    probe(found)
    typer.echo(plan_text(found, recipe.name, place))
    if recipe.seeds:
        typer.echo(f"\nso for each of the {len(recipe.seeds)} seeds {', '.join(map(str, recipe.seeds))}")


def _print_sweep_plan(recipe: Recipe, folder: Path, *, strict: bool) -> Recipe:
    """The plan of a recipe's sweep; returns the recipe after it, with the first settings where none are chosen yet."""
    from functools import partial

    from prefopt.pipeline.plan import plan, probe
    from prefopt.pipeline.plan_text import plan_text
    from prefopt.pipeline.sweep import SWEEP, earlier_choice, tuning_recipe, walk_candidates, with_chosen

    tuning = tuning_recipe(recipe)
    found = plan(tuning, folder / SWEEP, strict=strict, way=partial(walk_candidates, recipe=recipe))
    probe(found)
    typer.echo(
        plan_text(found, f"the sweep of {recipe.name} ({len(tuning.arms)} candidates)", folder / SWEEP)
    )
    chosen = earlier_choice(recipe, folder / SWEEP)
    if chosen is None:
        typer.echo("\nthen the recipe with what was chosen, here with the first settings of every arm:\n")
    else:
        typer.echo("\nthen the recipe with what was chosen:\n")
    return with_chosen(recipe, chosen)


def report_command(
    folder: Annotated[Path, typer.Argument(help="folder of a finished run")],
    output: Annotated[Path | None, typer.Option(help="file to write; null: FOLDER/report.html")] = None,
) -> None:
    """Write report.html of a run anew."""
    from prefopt.report import write_report
    from prefopt.tables.records import is_writable

    if output is None and not is_writable(folder):
        raise PrefoptError(f"{folder}: read-only; say where the page is to go, --output FILE.html")
    typer.echo(write_report(folder, output))


@recipes_app.callback()
def recipes_command(context: typer.Context) -> None:
    """Every packaged recipe by name, with a line of what it is."""
    from prefopt.core.settings import load_yaml
    from prefopt.pipeline.recipe import packaged_recipes

    for name, path in packaged_recipes().items():
        typer.echo(f"{name:<12} {load_yaml(path).get('about', '')}")


@recipes_app.command("show")
def show_command(
    recipe: Annotated[str, typer.Argument(help="name of a packaged recipe")],
) -> None:
    """Print a packaged recipe, to be saved and changed."""
    from prefopt.pipeline.recipe import find_recipe

    typer.echo(find_recipe(recipe).read_text(encoding="utf-8"), nl=False)


@recipes_app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipes, for editors that complete and check YAML."""
    from prefopt.pipeline.schema import recipe_schema

    schema: dict[str, Any] = recipe_schema()
    typer.echo(json.dumps(schema, indent=1))


def add_to(app: typer.Typer) -> None:
    """Declare these verbs."""
    app.command("run", context_settings=OPEN)(run_command)
    app.command("report")(report_command)
    app.add_typer(recipes_app, name="recipes")
