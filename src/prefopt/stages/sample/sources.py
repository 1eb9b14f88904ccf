"""Several models that answer each prompt: who they are, what they are called, and how their answers are put together."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import Config, OneOf
from prefopt.engines import ENGINES, known_engine, takes_model
from prefopt.engines.server_settings import ServerSettings
from prefopt.tables.records import Row


class ModelSource(Config):
    """One of several models. What is not given is as in the stage's own settings."""

    model: str | None = Field(None, description="model directory or hub name (null: the model of the stage)")
    name: str | None = Field(
        None, min_length=1, description="its name in the column model (null: the directory's or the server's)"
    )
    n: int | None = Field(None, ge=1, description="its completions per prompt")
    engine: Annotated[str | None, OneOf(lambda: ENGINES)] = Field(
        None, description=f"what writes: {', '.join(ENGINES)}"
    )
    server: ServerSettings | None = Field(None, description="engine server: whom to ask")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str | None) -> str | None:
        return None if name is None else known_engine(name)


class Sampled(Protocol):
    """The settings that say who writes (`SampleConfig` has them)."""

    @property
    def engine(self) -> str:
        """What writes."""

    @property
    def n(self) -> int:
        """Completions per prompt."""

    @property
    def server(self) -> ServerSettings | None:
        """Whom to ask."""

    @property
    def models(self) -> list[ModelSource] | None:
        """Several models that answer each prompt."""


@dataclass(frozen=True)
class Source:
    """A `ModelSource` with nothing left open. model: None for the stage's own model, or for engines that load none.

    name: None where only the stage's model tells it.
    """

    engine: str
    n: int
    model: str | None = None
    name: str | None = None
    server: ServerSettings | None = None

    @property
    def needs_model(self) -> bool:
        """Whether it is the stage's own model that writes."""
        return self.model is None and takes_model(self.engine)


def read_models(given: Any) -> Any:
    """Short forms of the setting `models`: a text is a model, null is the stage's own."""
    if not isinstance(given, list):
        return given
    return [{"model": one} if isinstance(one, str) else {} if one is None else one for one in given]


def sources_of(config: Sampled) -> list[Source]:
    """Who answers, in order; without `models` the one that the settings name.

    Raises:
        ValueError: settings that do not go together, or two models of one name.
    """
    if config.models is None:
        found = [Source(config.engine, config.n, server=config.server)]
    elif not config.models:
        raise ValueError("models: an empty list; name models, or leave the setting out")
    else:
        found = [_source(model, config) for model in config.models]
    if config.server is not None and all(source.engine != "server" for source in found):
        raise ValueError(f"server is for engine 'server', the engine is {found[0].engine!r}")
    for source in found:
        if source.engine == "server" and source.server is None:
            raise ValueError("engine 'server' needs server.base_url (http://HOST:PORT/v1) and server.model")
    if twice := _alike([source.name for source in found if source.name is not None]):
        raise ValueError(twice)
    return found


def _source(given: ModelSource, config: Sampled) -> Source:
    engine = given.engine or ("server" if given.server else config.engine)
    if given.server is not None and engine != "server":
        raise ValueError(f"models: server is for engine 'server', the engine is {engine!r}")
    if given.model is not None and not takes_model(engine):
        raise ValueError(f"models: model is for engines that load one, the engine is {engine!r}")
    server = (given.server or config.server) if engine == "server" else None
    unnamed = engine if not takes_model(engine) else _name_of(given.model)
    name = given.name or (server.model if server else unnamed)
    return Source(engine, given.n or config.n, given.model, name, server)


def _name_of(model: str | None) -> str | None:
    """The directory's own name; a hub name as it is."""
    return Path(model).resolve().name if model is not None and Path(model).is_dir() else model


def slug(name: str) -> str:
    """The name as part of a seed's label and of a folder's name."""
    return re.sub(r"[^\w.-]+", "-", name)


def _alike(names: Sequence[str]) -> str:
    """What is wrong where two names give one label, else empty."""
    first: dict[str, str] = {}
    for name in names:
        other = first.get(slug(name))
        if other is not None:
            both = (
                f"are named {name!r}"
                if name == other
                else f"have names too much alike, {other!r} and {name!r}"
            )
            return f"models: two models {both}; give one a name of its own (name: ...)"
        first[slug(name)] = name
    return ""


def named(sources: Sequence[Source], model: Path | None) -> list[str]:
    """The name of each, the stage's own model after its directory.

    Raises:
        PrefoptError: two are named alike.
    """
    names = [source.name or (model.name if model else "model") for source in sources]
    if twice := _alike(names):
        raise PrefoptError(f"sample: {twice}")
    return names


def in_order(rows: Sequence[Row], prompts: Sequence[Row]) -> list[Row]:
    """Rows of several passes, prompt by prompt."""
    places = {row["prompt_id"]: place for place, row in enumerate(prompts)}
    return sorted(rows, key=lambda row: (places[row["prompt_id"]], row["completion_index"]))


def by_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Completions of each model, in order of first appearance."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    return found


def give_memory_back() -> None:
    """After a model that is no longer used, so that the next one has room; imports nothing."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
