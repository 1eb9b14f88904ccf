"""`prefopt suite ...`: agents, data, tune, train, bench, plot, render. Importing this needs neither jax nor mujoco."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefopt.core.errors import PrefoptError

if TYPE_CHECKING:
    from prefopt.suite.bench.settings import BenchConfig

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
suite_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Preference methods under control on MuJoCo. Settings by --key value, e.g. --inner.updates 200.",
)
Preset = Annotated[str, typer.Option(help="small, paper or toy")]
Root = Annotated[Path, typer.Option("--output", help="folder of agents, trajectories and results (a cache)")]
Tuned = Annotated[Path | None, typer.Option(help="result of tuning (default: the packaged one)")]
Env = Annotated[str | None, typer.Option("--env", help="short for --agents.environment")]
Workers = Annotated[int, typer.Option(min=1, help="threads")]
Variant = Annotated[str, typer.Option(help="base, noisy:p, poor_judge:eta, mixed:q, shuffled, small:n")]
RUNS = Path("runs/suite")


def _configs(preset: str, words: list[str], env: str | None) -> list[BenchConfig]:
    """The settings of every environment of the preset (small: Hopper alone), or of `env`."""
    try:
        import jax  # noqa: F401
        import mujoco  # noqa: F401
        import optax  # noqa: F401
    except ImportError as error:
        raise PrefoptError(f"prefopt suite: {error.name} is missing; pip install 'prefopt[suite]'") from None
    from prefopt.core.settings import merge, parse_overrides
    from prefopt.suite.bench.settings import bench_configs

    overrides = parse_overrides(words)
    return bench_configs(preset, merge(overrides, {"agents": {"environment": env}}) if env else overrides)


def _config(preset: str, words: list[str], env: str | None) -> BenchConfig:
    """The settings of one environment. Raises PrefoptError for a preset of several without `--env`."""
    configs = _configs(preset, words, env)
    if len(configs) > 1:
        names = ", ".join(config.agents.environment for config in configs)
        raise PrefoptError(f"prefopt suite: preset {preset} has several environments; give --env ({names})")
    return configs[0]


@suite_app.command("agents", context_settings=OPEN)
def agents_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
) -> None:
    """Train reference and expert, or show the cached ones."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.agents.agents import agents

    for config in configs:
        found = agents(config.agents, output, threads=workers)
        _figures(found.figures["reference"], f"{config.agents.environment}, reference")
        _figures(found.figures["expert"], f"{config.agents.environment}, expert")
        typer.echo(f"-> {found.folder}")


@suite_app.command("data", context_settings=OPEN)
def data_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option(help="of rows and labels")] = 0,
) -> None:
    """Simulate the trajectories and print what each variant of the preset really is."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.bench.runs import material
    from prefopt.suite.data.variants import figures, make_pairs, parse_variant

    for config in configs:
        given = material(config, output, threads=workers)
        for variant in config.variants:
            pairs = make_pairs(given.bank, parse_variant(variant), config.rows, seed)
            _figures(figures(given.bank, pairs), f"{config.agents.environment}, {variant}")


@suite_app.command("tune", context_settings=OPEN)
def tune_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
    write: Annotated[Path | None, typer.Option(help="file for the result")] = None,
) -> None:
    """Tune every loss with an equal budget, on seeds that the bench does not use."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.bench.tune import tune, write_tuned
    from prefopt.tables.ours import check_file

    for config in configs:
        check_file(_tuned_target(write, output, config))
    for config in configs:
        result = tune(config, output, workers=workers)
        for name, found in result["losses"].items():
            _figures({"score": found["score"], **found["hyper"]}, name)
        target = _tuned_target(write, output, config)
        write_tuned(target, [result])
        typer.echo(f"-> {target}")


def _tuned_target(write: Path | None, output: Path, config: BenchConfig) -> Path:
    return write or output / f"tuned-{config.agents.environment}.json"


@suite_app.command("bench", context_settings=OPEN)
def bench_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    tuned: Tuned = None,
    workers: Workers = 2,
    write: Annotated[Path | None, typer.Option(help="file for the result")] = None,
) -> None:
    """The table methods x variants with standard errors, a file per environment."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.bench.bench import bench
    from prefopt.suite.bench.tables import markdown
    from prefopt.suite.bench.tune import SHIPPED, load_tuned
    from prefopt.tables.ours import check_file
    from prefopt.tables.records import write_json, write_text

    source = tuned or SHIPPED
    hypers = [load_tuned(source, config.agents.environment, config.methods) for config in configs]
    whole = write or output / f"suite-{preset}.json"
    names = [config.agents.environment for config in configs]
    targets = [whole.with_stem(f"{whole.stem}-{name}") if len(configs) > 1 else whole for name in names]
    for target in targets:
        check_file(target)
        if not target.exists():  # the table goes with the result
            check_file(target.with_suffix(".md"))
    for config, hyper, target in zip(configs, hypers, targets, strict=True):
        result = bench(config, hyper, output, workers=workers)
        write_json(target, result)
        write_text(target.with_suffix(".md"), markdown(result))
        typer.echo(markdown(result))
        for row in result["orderings"]:
            typer.echo(
                f"{row['verdict']:<10} {row['claim']} ({row['difference']:+.0f} ± {row['standard_error']:.0f})"
            )
        typer.echo(f"-> {target}")


@suite_app.command("train", context_settings=OPEN)
def train_command(
    context: typer.Context,
    method: Annotated[str, typer.Option(help="a method of the bench")] = "dpo",
    variant: Variant = "base",
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    tuned: Tuned = None,
    workers: Workers = 2,
    hyper: Annotated[
        str | None, typer.Option(help="in place of tuned ones: beta=0.003,learning_rate=1e-3")
    ] = None,
) -> None:
    """Train one method on one variant; evaluate its snapshots (--inner.snapshots 10), keep policies and curve."""
    config = _config(preset, context.args, env)
    from prefopt.suite.bench.single import train_single
    from prefopt.suite.bench.tune import SHIPPED, load_tuned

    if hyper is None:
        numbers: dict[str, float] = load_tuned(tuned or SHIPPED, config.agents.environment, [method])[method]
    else:
        numbers = parse_hyper(hyper)
    curve, folder = train_single(config, method, variant, numbers, output, threads=workers)
    for update, *returns in zip(curve["updates"], *curve["returns"], strict=True):
        typer.echo(f"  update {update}: return {sum(returns) / len(returns):.0f}")
    typer.echo(f"-> {folder}")


def parse_hyper(text: str) -> dict[str, float]:
    """`beta=0.003,learning_rate=1e-3` -> numbers. Raises PrefoptError for anything else, or without a learning_rate."""
    out = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise PrefoptError(f"--hyper: {part!r} is not NAME=NUMBER; write beta=0.003,learning_rate=1e-3")
    if "learning_rate" not in out:
        raise PrefoptError("--hyper: learning_rate is missing; write beta=0.003,learning_rate=1e-3")
    return out


@suite_app.command("plot")
def plot_command(
    source: Annotated[
        Path, typer.Option("--input", help="result of 'suite bench' or curve.json of 'suite train'")
    ],
    write: Annotated[Path | None, typer.Option(help="HTML or SVG file")] = None,
) -> None:
    """Draw a result: returns by variant per method, or a training curve; NAME.gif beside it goes into the page."""
    from prefopt.suite.figures.plot import plot_file

    typer.echo(f"-> {plot_file(source, write or source.with_suffix('.html'))}")


@suite_app.command("render", context_settings=OPEN)
def render_command(
    context: typer.Context,
    write: Annotated[Path, typer.Option(help="GIF file")],
    policy: Annotated[
        Path | None, typer.Option(help="policy-*.safetensors shown beside the reference")
    ] = None,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="simulated time")] = 4.0,
    seed: Annotated[int, typer.Option(help="of start state and actions")] = 0,
) -> None:
    """An animated GIF: the reference beside a trained policy (or the expert)."""
    config = _config(preset, context.args, env)
    from prefopt.suite.agents.agents import agents
    from prefopt.suite.figures.render import render
    from prefopt.suite.store import load_arrays
    from prefopt.tables.ours import check_file

    check_file(write)
    found = agents(config.agents, output, threads=workers)
    after: Any = load_arrays(policy) if policy is not None else found.expert
    typer.echo(f"-> {render(config.agents, [found.reference, after], write, seconds=seconds, seed=seed)}")


def _figures(values: dict[str, Any], name: str) -> None:
    text = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
    typer.echo(f"{name}: {text}")
