"""Every verb of the command line in one table: what was declared with typer, with its own options and its settings.

Typer holds the declarations (a function, its signature, what each option means). Parsing, help and completion are ours:
they read the fields of settings, which typer does not know.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from prefopt.core.settings import Config

# every word that is no option of the verb itself is a setting '--key value'
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
_STAGES = "prefopt.stages."
# verb -> where the class of its settings is, and names that may stand before a key (`--train.steps` is `--steps`)
SETTINGS: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {
    ("run",): ("prefopt.pipeline.recipe:Recipe", ()),
    ("check",): ("prefopt.tools.check.settings:CheckConfig", ("check",)),
    ("advise",): ("prefopt.tools.advise.settings:AdviseConfig", ("advise",)),
    ("judge-check",): ("prefopt.tools.judge_check:JudgeCheckConfig", ("judge_check",)),
    ("win-rate",): ("prefopt.tools.win_rate.settings:WinRateConfig", ("win_rate",)),
    ("mt-bench",): ("prefopt.tools.mt_bench.settings:MtBenchConfig", ("mt_bench",)),
    ("lm-eval",): ("prefopt.tools.harness:LmEvalConfig", ("lm_eval",)),
    ("data",): (f"{_STAGES}data.settings:DataConfig", ("data",)),
    ("sample",): (f"{_STAGES}sample.settings:SampleConfig", ("sample",)),
    ("judge",): (f"{_STAGES}judge.settings:JudgeConfig", ("judge",)),
    ("rank",): (f"{_STAGES}rank.settings:RankConfig", ("rank",)),
    ("reference",): (f"{_STAGES}reference.settings:ReferenceConfig", ("reference",)),
    ("select",): (f"{_STAGES}select.settings:SelectConfig", ("select",)),
    ("weigh",): (f"{_STAGES}weight.settings:WeightConfig", ("weigh", "weight")),
    ("train",): (f"{_STAGES}train.settings:TrainConfig", ("train",)),
    ("train-reward",): ("prefopt.tools.reward.settings:RewardConfig", ("train_reward", "train")),
    ("evaluate",): (f"{_STAGES}evaluate.settings:EvaluateConfig", ("evaluate",)),
    ("suite", "discover"): ("prefopt.suite.search.settings:DiscoverConfig", ("suite", "discover")),
    **{
        ("suite", name): ("prefopt.suite.bench.settings:BenchConfig", ("suite", name))
        for name in ("agents", "data", "tune", "bench", "train", "render")
    },
}
# verb -> options of its function that mean nothing there
WITHOUT: dict[tuple[str, ...], frozenset[str]] = {}


@dataclass(frozen=True)
class Signature:
    """What a verb's function takes: its own options as a settings class, and which of them need no name.

    positional: fields given without a name, in order; the last may be a list. context: the parameter for the words that
    are settings.
    """

    options: type[Config]
    positional: tuple[str, ...]
    context: str | None

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """As it is written, with underscores -> what it is."""
        return {str(info.alias): info for info in self.options.model_fields.values()}


@dataclass(frozen=True)
class Verb:
    """A verb: the words that name it, its function, and whether options that it does not know are settings."""

    path: tuple[str, ...]
    function: Callable[..., Any]
    is_open: bool

    @property
    def name(self) -> str:
        """As it is typed, after `prefopt`."""
        return " ".join(self.path)

    @property
    def about(self) -> str:
        """What it does."""
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def sections(self) -> tuple[str, ...]:
        """Names that may stand before a setting's key."""
        return SETTINGS[self.path][1] if self.is_open else ()

    @cached_property
    def signature(self) -> Signature:
        """Its own options."""
        return _read(self.function, WITHOUT.get(self.path, frozenset()))

    def settings(self) -> type[Config]:
        """The class of the verb's settings; imported when it is asked for."""
        from prefopt.core.settings import Config

        if not self.is_open:
            return Config
        module, name = SETTINGS[self.path][0].split(":")
        found: type[Config] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True)
class Group:
    """A group of verbs (`prefopt suite`), which may also do something by itself (`prefopt losses`)."""

    path: tuple[str, ...]
    about: str
    verbs: Mapping[str, Verb | Group] = field(default_factory=dict)
    alone: Verb | None = None

    @property
    def name(self) -> str:
        """As it is typed, after `prefopt`."""
        return " ".join(self.path)

    def walk(self) -> Iterator[Verb]:
        """All verbs in it, those of groups too."""
        if self.alone is not None:
            yield self.alone
        for entry in self.verbs.values():
            yield from entry.walk() if isinstance(entry, Group) else (entry,)


def read_app(app: typer.Typer, path: tuple[str, ...] = (), about: str = "") -> Group:
    """The verbs that are declared in a typer application."""
    verbs: dict[str, Verb | Group] = {}
    for command in app.registered_commands:
        if command.callback is None or command.hidden:
            continue
        name = command.name or command.callback.__name__.replace("_", "-")
        verbs[name] = _verb(command.callback, (*path, name), command.context_settings)
    for inner in app.registered_groups:
        if inner.typer_instance is not None:
            name = str(inner.name)
            verbs[name] = read_app(inner.typer_instance, (*path, name), str(inner.typer_instance.info.help))
    first = app.registered_callback
    alone = first and first.callback and app.info.invoke_without_command is True
    return Group(path, about, verbs, _verb(first.callback, path, None) if alone and first else None)  # type: ignore[arg-type]


def _verb(function: Callable[..., Any], path: tuple[str, ...], words: Mapping[Any, Any] | None) -> Verb:
    return Verb(path, function, bool((words or {}).get("allow_extra_args")))


def _read(function: Callable[..., Any], without: frozenset[str]) -> Signature:
    from pydantic import Field, create_model

    from prefopt.core.settings import Config

    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    positional, context = [], None
    for name, parameter in inspect.signature(function).parameters.items():
        if hints[name] is typer.Context:
            context = name
            continue
        if name in without:
            continue
        kind, info = _annotation(hints[name])
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        said = info.help if info is not None else ""
        limits: dict[str, Any] = {"ge": info.min, "le": info.max} if info is not None else {}
        limits = {key: value for key, value in limits.items() if value is not None}
        written = _written(name, info)
        fields[name] = (kind, Field(default, alias=written, description=said, **limits))
        if isinstance(info, ArgumentInfo):
            positional.append(written)
    return Signature(create_model("Options", __base__=Config, **fields), tuple(positional), context)


def _annotation(hint: Any) -> tuple[Any, OptionInfo | ArgumentInfo | None]:
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, OptionInfo | ArgumentInfo)), None)


def _written(name: str, info: OptionInfo | ArgumentInfo | None) -> str:
    """The option as it is written, with underscores: `--input` of a parameter `source` is `input`."""
    # in Annotated[...] the first name stands where a default would
    said = [*([info.default] if info else []), *((info and info.param_decls) or ())]
    given = next((word for word in said if isinstance(word, str) and word.startswith("--")), None)
    return given.removeprefix("--").replace("-", "_") if given else name
