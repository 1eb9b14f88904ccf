"""Verbs that evaluate beyond stage 08: win rates against a baseline, MT-Bench's protocol, lm_eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefopt.cli.registry import OPEN
from prefopt.cli.verbs import Seed


def win_rate_command(
    context: typer.Context,
    outputs: Annotated[
        list[str],
        typer.Argument(
            help="runs, folders of stages, files of outputs, also PLACE:NAME; or files of annotations"
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="the answers they are compared with, e.g. RUN:base")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="folder for win-rate.json, annotations and verdicts")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Win rates of recorded answers against a baseline's by a judge, plain and length-controlled (docs/evaluate.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tables.context import Context
    from prefopt.tools.output import context_in, verb_folder
    from prefopt.tools.win_rate import win_rate as tool
    from prefopt.tools.win_rate.answers import files_of
    from prefopt.tools.win_rate.settings import WinRateConfig

    config = parse_config(WinRateConfig, parse_overrides(context.args), "prefopt win-rate")
    if output is None:
        return tool.print_win_rate(tool.win_rate(outputs, baseline, config, Context(seed=seed)).figures)
    with verb_folder(output, tool.CLAIMS, files_of([*outputs, *([baseline] if baseline else [])])):
        kept = context_in(output, tool.CLAIMS, seed)
        found = tool.win_rate(outputs, baseline, config, kept, journal=output / tool.JOURNAL)
        tool.print_win_rate(found.figures)
        typer.echo(tool.write_win_rate(found, output))


def mt_bench_command(
    context: typer.Context,
    places: Annotated[
        list[str],
        typer.Argument(help="models, runs (RUN, RUN:ARM, RUN:base) or files of answers; or files of votes"),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="pairwise: the one that the others meet; null: every pair meets")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for figures, answers and judgments")] = None,
    seed: Seed = 0,
) -> None:
    """MT-Bench's protocol: two turns, graded by a judge or in pairs; also tables of recorded votes (docs/evaluate.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tables.context import Context
    from prefopt.tools.mt_bench import mt_bench as tool
    from prefopt.tools.mt_bench.settings import MtBenchConfig
    from prefopt.tools.mt_bench.shown import print_mt_bench
    from prefopt.tools.output import context_in, verb_folder
    from prefopt.tools.win_rate.answers import files_of

    config = parse_config(MtBenchConfig, parse_overrides(context.args), "prefopt mt-bench")
    if output is None:
        return print_mt_bench(tool.mt_bench(places, config, Context(seed=seed), baseline=baseline).figures)
    with verb_folder(output, tool.CLAIMS, files_of([*places, *([baseline] if baseline else [])])):
        kept = context_in(output, tool.CLAIMS, seed)
        found = tool.mt_bench(places, config, kept, baseline=baseline, journal=output / tool.JOURNAL)
        print_mt_bench(found.figures)
        typer.echo(tool.write_mt_bench(found, output))


def lm_eval_command(
    context: typer.Context,
    place: Annotated[str, typer.Argument(help="a model, or a run: RUN, RUN:ARM, RUN:base")],
    output: Annotated[
        Path | None, typer.Option(help="folder for lm-eval.json; null: RUN/lm-eval/ARM of a run, else none")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Benchmarks of EleutherAI's lm_eval: --tasks arc_easy,hellaswag (pip install 'prefopt[eval]'; docs/evaluate.md)."""
    from prefopt.core.settings import parse_config, parse_overrides
    from prefopt.tools import harness

    config = parse_config(harness.LmEvalConfig, parse_overrides(context.args), "prefopt lm-eval")
    folder = harness.lm_eval_folder(place, output)
    if folder is not None:
        harness.check_output(folder)  # before the work
    figures = harness.lm_eval_figures(place, config, seed)
    harness.print_lm_eval(figures)
    if folder is not None:
        typer.echo(harness.write_lm_eval(figures, folder))


def add_to(app: typer.Typer) -> None:
    """Declare these verbs."""
    app.command("win-rate", context_settings=OPEN)(win_rate_command)
    app.command("mt-bench", context_settings=OPEN)(mt_bench_command)
    app.command("lm-eval", context_settings=OPEN)(lm_eval_command)
