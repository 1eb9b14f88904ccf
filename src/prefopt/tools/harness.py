"""`prefopt lm-eval`: benchmarks of EleutherAI's lm_eval on a model or an arm of a run, in this process, with figures in one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config
from prefopt.engines import Dtype
from prefopt.models.find import resolve_model
from prefopt.models.load import default_device, load_model, load_tokenizer
from prefopt.rules.intervals import Z95
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import Claims, OwnedFolder
from prefopt.tables.records import write_json
from prefopt.tools.chat import BASE, run_models
from prefopt.tools.output import verb_folder
from prefopt.tools.win_rate.answers import split_place

INSTALL = "pip install 'prefopt[eval]'"
FIGURES = "lm-eval.json"
CLAIMS = Claims("lm-eval", (FIGURES,))
SHOWN = 200  # characters of lm_eval's own message


class LmEvalConfig(Config):
    """Settings of a run of lm_eval; what is not here is as the task says."""

    tasks: list[str] = Field(description="names of tasks and groups, e.g. arc_easy,hellaswag")
    limit: int | None = Field(None, ge=1, description="at most this many documents per task (null = all)")
    num_fewshot: int | None = Field(
        None, ge=0, description="examples before each question (null: the task's)"
    )
    batch_size: int = Field(8, ge=1, description="sequences of one forward pass")
    chat_template: bool = Field(False, description="put questions into the model's chat template")
    max_length: int | None = Field(
        None, ge=16, description="longest sequence, tokens; null: the model's own limit"
    )
    include_path: Path | None = Field(None, description="folder with YAML files of tasks of your own")
    dtype: Dtype = Field("auto", description="dtype of the model; auto is the checkpoint's own")

    @field_validator("tasks", mode="before")
    @classmethod
    def _by_commas(cls, value: Any) -> Any:
        return (
            [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
        )

    @field_validator("tasks")
    @classmethod
    def _some(cls, names: list[str]) -> list[str]:
        if not names:
            raise ValueError("name at least one task, e.g. arc_easy")
        return names


def lm_eval_figures(place: str, config: LmEvalConfig, seed: int = 0) -> dict[str, Any]:
    """Figures of every task: `{"model", "lm_eval", "seed", "settings", "tasks"}`.

    place: a model, or an arm of a run (`RUN`, `RUN:ARM`, `RUN:base`); adapters are merged into their base. tasks: name ->
    `documents`, and metric -> `value`, with `standard_error` and a 95% interval where lm_eval gives the former.

    Raises:
        PrefoptError: lm_eval is not installed, no such task or model, or lm_eval stops (data sets that are not there).
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise PrefoptError(f"lm-eval needs the package {error.name!r}; {INSTALL}") from None
    manager = _manager(config, TaskManager)
    path = model_at(place)
    model, tokenizer = load_model(path, dtype=config.dtype).to(default_device()), load_tokenizer(path)
    if config.chat_template and not tokenizer.chat_template:
        raise PrefoptError(f"{place}: has no chat template; leave out --chat-template")
    with _told(
        "data sets are fetched from the hub: where there is none, have them in its cache or give tasks of your own by --include-path"
    ):
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=config.batch_size, max_length=config.max_length
        )
        found = lm_eval.simple_evaluate(
            wrapped, tasks=config.tasks, num_fewshot=config.num_fewshot, limit=config.limit, task_manager=manager,
            apply_chat_template=config.chat_template, log_samples=False, bootstrap_iters=0 if config.limit == 1 else 1000,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    if found is None:
        raise PrefoptError("lm-eval: gave no results; start it in one process")
    return {
        "model": place,
        "lm_eval": lm_eval.__version__,
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        "tasks": task_figures(found),
    }


def _manager(config: LmEvalConfig, kind: Any) -> Any:
    """lm_eval's list of tasks; its own, which take a while to list, only where the user's folder has not all that are asked for.

    Raises:
        PrefoptError: no such folder or task, or files that cannot be read.
    """
    known: list[str] = []
    with _told("its tasks cannot be read"):
        if config.include_path is not None:
            if not config.include_path.is_dir():
                raise PrefoptError(
                    f"lm-eval: include_path: {config.include_path}: no such folder; give the one with your tasks' YAML"
                )
            own = kind(include_path=str(config.include_path), include_defaults=False)
            if set(config.tasks) <= set(own.all_tasks):
                return own
        manager = kind(include_path=None if config.include_path is None else str(config.include_path))
        known = manager.all_tasks
    if unknown := next((name for name in config.tasks if name not in known), None):
        raise PrefoptError(f"lm-eval: no task {unknown!r}, {nearest(unknown, known)}")
    return manager


def model_at(place: str) -> Path:
    """The directory of a model, or of the model of a run's arm."""
    path, arm = split_place(place)
    if not (path / "summary.json").is_file():
        return resolve_model(place)
    models = run_models(path, None if arm == BASE else arm)
    return models[BASE] if arm == BASE else next(found for name, found in models.items() if name != BASE)


@contextmanager
def _told(remedy: str) -> Iterator[None]:
    """Whatever lm_eval (and what it calls) raises, as one line."""
    try:
        yield
    except PrefoptError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:SHOWN]
        raise PrefoptError(f"lm-eval stopped ({type(error).__name__}: {said}); {remedy}") from None


def task_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Task or group -> metrics, from what `simple_evaluate` gives: keys `acc,none` and `acc_stderr,none`."""
    tasks: dict[str, Any] = {}
    counts = found.get("n-samples") or {}
    for name, values in {**(found.get("groups") or {}), **found["results"]}.items():
        metrics: dict[str, Any] = {}
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            title = metric if filtered in ("", "none") else f"{metric} ({filtered})"
            error = values.get(f"{metric}_stderr,{filtered}")
            known = isinstance(error, int | float)
            ends = (
                {"low": value - Z95 * error, "high": value + Z95 * error}
                if known
                else {"low": None, "high": None}
            )
            metrics[title] = {"value": float(value), "standard_error": error if known else None, **ends}
        tasks[name] = {"documents": (counts.get(name) or {}).get("effective"), "metrics": metrics}
    return tasks


# ---- out


def lm_eval_folder(place: str, output: Path | None) -> Path | None:
    """Where figures go: `output`, else `RUN/lm-eval/ARM` of a run; None for a model without `output`."""
    path, arm = split_place(place)
    if output is not None:
        check_apart(output, [("model", path)])
        return output
    if not (path / "summary.json").is_file():
        return None
    from prefopt.report.load import load_run

    return path / "lm-eval" / (arm or load_run(path).main)


def check_output(output: Path) -> None:
    """Raise `PrefoptError` where the folder is not new, empty or of an earlier lm-eval."""
    OwnedFolder(output, CLAIMS).check()


def write_lm_eval(figures: Mapping[str, Any], output: Path) -> Path:
    """`lm-eval.json` in the folder `output`, which is new, empty or of an earlier lm-eval; returns its path.

    Raises:
        PrefoptError: the folder holds other things, or another process works there.
    """
    with verb_folder(output, CLAIMS):
        write_json(output / FIGURES, dict(figures))
    return output / FIGURES


def print_lm_eval(figures: Mapping[str, Any]) -> None:
    """A row per task and metric."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from prefopt.core.terminal import console, one_line

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("task", "metric", "value", "95% interval", "documents"):
        table.add_column(title, justify="left" if title in ("task", "metric") else "right", overflow="fold")
    for name, task in figures["tasks"].items():
        for metric, entry in task["metrics"].items():
            ends = "" if entry["low"] is None else f"[{entry['low']:.3f}, {entry['high']:.3f}]"
            count = "" if task["documents"] is None else str(task["documents"])
            cells: Sequence[str] = (name, metric, f"{entry['value']:.3f}", ends, count)
            table.add_row(*(Text(one_line(cell)) for cell in cells))
    console().print(table)
