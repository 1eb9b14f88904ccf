"""`prefopt suite ...`: agents, data, tune, train, bench, discover, plot, render. Importing this needs neither jax nor mujoco."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefopt.core.errors import PrefoptError
from prefopt.suite.words import parse_budget, parse_hyper, parse_seeds

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
Lineages = Annotated[
    str | None, typer.Option("--lineages", help="seeds, e.g. 1-4,9 (default: those of reporting)")
]
Variant = Annotated[str, typer.Option(help="base, noisy:p, poor_judge:eta, mixed:q, shuffled, small:n")]
RUNS = Path("runs/suite")


def _configs(preset: str, words: list[str] | dict[str, Any], env: str | None) -> list[BenchConfig]:
    """The settings of every environment of the preset (small: Hopper alone), or of `env`."""
    try:
        import jax  # noqa: F401
        import mujoco  # noqa: F401
        import optax  # noqa: F401
    except ImportError as error:
        raise PrefoptError(f"prefopt suite: {error.name} is missing; pip install 'prefopt[suite]'") from None
    from prefopt.core.settings import merge, parse_overrides
    from prefopt.suite.bench.settings import bench_configs

    overrides = parse_overrides(words) if isinstance(words, list) else words
    return bench_configs(preset, merge(overrides, {"agents": {"environment": env}}) if env else overrides)


def _config(preset: str, words: list[str] | dict[str, Any], env: str | None) -> BenchConfig:
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
    lineages: Lineages = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="train anew even where the package ships them")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="folder for policies and index, as the package ships them")
    ] = None,
) -> None:
    """Show the shipped agents of every lineage, or train reference and expert."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.agents.agents import agents
    from prefopt.suite.agents.lineages import ship

    for config in configs:
        for seed in parse_seeds(lineages, config.reporting()):
            own = config.of_lineage(seed).agents
            found = agents(own, output, threads=workers, fresh=fresh)
            for name in ("reference", "expert"):
                _figures(found.figures[name], f"{own.environment} {seed}, {name}")
            typer.echo(f"-> {found.folder}{' (shipped)' if found.shipped else ''}")
            if write is not None:
                ship(own.model_dump(mode="json"), found.figures, found.policies(), write)


@suite_app.command("data", context_settings=OPEN)
def data_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option(help="of rows and labels")] = 0,
    lineages: Lineages = None,
) -> None:
    """Simulate the trajectories and print what each variant of the preset really is."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.bench.runs import material
    from prefopt.suite.data.variants import figures, make_pairs, parse_variant

    for config in configs:
        for lineage in parse_seeds(lineages, config.reporting()):
            given = material(config, output, lineage=lineage, threads=workers)
            for variant in config.variants:
                pairs = make_pairs(given.bank, parse_variant(variant), config.rows, seed)
                _figures(figures(given.bank, pairs), f"{config.agents.environment} {lineage}, {variant}")


@suite_app.command("tune", context_settings=OPEN)
def tune_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    output: Root = RUNS,
    workers: Workers = 2,
    write: Annotated[Path | None, typer.Option(help="file for the result")] = None,
) -> None:
    """Tune every method and its length of training with an equal budget, on lineages that nothing else uses."""
    configs = _configs(preset, context.args, env)
    from prefopt.suite.bench.tune import tune, write_tuned
    from prefopt.tables.ours import check_file

    for config in configs:
        check_file(_tuned_target(write, output, config))
    for config in configs:
        result = tune(config, output, workers=workers)
        for name, found in result["losses"].items():
            _figures({"score": found["score"], **found["hyper"], "updates": found["updates"]}, name)
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
    """The table methods x variants over the reporting lineages, a file per environment."""
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
                f"{row['verdict']:<10} {row['claim']} ({row['difference']:+.0f} ± {row['half_width']:.0f})"
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
        numbers = load_tuned(tuned or SHIPPED, config.agents.environment, [method])[method]["hyper"]
    else:
        numbers = parse_hyper(hyper)
    curve, folder = train_single(config, method, variant, numbers, output, threads=workers)
    for update, *returns in zip(curve["updates"], *curve["returns"], strict=True):
        typer.echo(f"  update {update}: return {sum(returns) / len(returns):.0f}")
    typer.echo(f"-> {folder}")


@suite_app.command("discover", context_settings=OPEN)
def discover_command(
    context: typer.Context,
    preset: Preset = "small",
    env: Env = None,
    variants: Annotated[str | None, typer.Option(help="e.g. noisy:0.3, or several: base,noisy:0.2")] = None,
    start: Annotated[str | None, typer.Option(help="baseline: orpo or orpo_reference")] = None,
    output: Root = RUNS,
    tuned: Tuned = None,
    workers: Workers = 2,
    budget: Annotated[str | None, typer.Option(help="time for all of it, e.g. 60m")] = None,
    write: Annotated[Path | None, typer.Option(help="file of the loss")] = None,
) -> None:
    """Search a loss by evolution or halving (--search.key value for its settings); a killed search continues."""
    from prefopt.core.settings import merge, parse_config, parse_overrides

    seconds = None if budget is None else parse_budget(budget)
    words = parse_overrides(context.args)
    asked = {"start": start, "variants": variants.split(",") if variants else None}
    own = merge(words.pop("search", {}), {key: value for key, value in asked.items() if value is not None})
    bench = _config(preset, words, env)
    from prefopt.suite.bench.tune import SHIPPED, load_tuned
    from prefopt.suite.search.discover import discover
    from prefopt.suite.search.export import export
    from prefopt.suite.search.halving import halve
    from prefopt.suite.search.settings import SearchConfig

    config = parse_config(SearchConfig, own, "prefopt suite discover --search")
    baseline = load_tuned(tuned or SHIPPED, bench.agents.environment, ["orpo"])["orpo"]
    search = discover if config.method == "evolution" else halve
    result, folder = search(config, bench, baseline, output, workers=workers, budget_s=seconds)
    for name, row in result["retest"].items():
        typer.echo(f"  {name}: {row['share']}")
    found = export(result, write or folder / "found.json")
    typer.echo(f"-> {found} ({result['chosen']} of {result['cost']['trainings']} trainings)")


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
    own = config.of_lineage(config.reporting()[0]).agents
    found = agents(own, output, threads=workers)
    after: Any = load_arrays(policy) if policy is not None else found.expert
    typer.echo(f"-> {render(own, [found.reference, after], write, seconds=seconds, seed=seed)}")


def _figures(values: dict[str, Any], name: str) -> None:
    text = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
    typer.echo(f"{name}: {text}")
