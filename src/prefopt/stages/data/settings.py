"""Settings of 00-data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from prefopt.core.settings import Config

if TYPE_CHECKING:
    pass


class SourceConfig(Config):
    """One source of several."""

    path: str = Field(description="file, folder, pattern, URL, builtin:NAME or hub name")
    split: str | None = Field(None, description="split of this source; null: data.split")
    weight: float | None = Field(
        None,
        gt=0,
        description="share of this source in the mixture, relative to the others; null: all its rows",
    )
    columns: dict[str, str] = Field({}, description="names of this source's columns; {}: data.columns")


class DataConfig(Config):
    """Where the data is and how it is read."""

    path: str | list[str | SourceConfig] | None = Field(
        None,
        description="data file (.jsonl .json .csv .tsv, also .gz; .parquet), folder, pattern, URL, builtin:NAME, hub name "
        "(owner/name:subset), or a list of them, each perhaps {path, split, weight, columns}",
    )
    split: str | None = Field(
        None,
        description="split of a hub data set (null = train), key of a JSON object of arrays, or entry of a dataset_info.json",
    )
    kind: Literal["auto", "prompts", "completions", "pairs", "unpaired"] = Field(
        "auto", description="what the file holds: auto, prompts, completions, pairs or unpaired"
    )
    gold_model: str | None = Field(
        "ground_truth", description="model whose completion is the gold solution, not a sample; null = none"
    )
    system: str | None = Field(
        None, min_length=1, description="system message put before message prompts that have none"
    )
    heldout: float = Field(
        0.1, ge=0, lt=1, description="share of prompts held out for evaluation, by hash of prompt and seed"
    )
    tuning: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of prompts set aside for tuning, by hash of the prompt alone: the same ones with every seed",
    )
    part: Literal["rest", "tuning"] = Field(
        "rest", description="where `tuning` is above 0: all other prompts, or those set aside"
    )
    limit: int | None = Field(
        None, gt=0, description="read at most this many rows of each source (null = all)"
    )
    columns: dict[str, str] = Field(
        {},
        description="your column names to ours, e.g. {question: prompt, input.messages: prompt} (dots lead into objects and lists)",
    )
    chat: bool | Literal["auto"] | None = Field(
        "auto",
        description="text prompts as a user message: auto, where the model has a chat template; true; false: lone user "
        "messages become text; null: left as they are",
    )
    count: Literal["assistant", "last", "all"] = Field(
        "assistant",
        description="what counts in an answer of several turns: what the assistant says (headers, users and tools do not), "
        "its last turn alone, or all",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="arguments for the chat template, for all rows, e.g. {enable_thinking: false}; a row's own win",
    )
    chat_template: Path | None = Field(
        None, description="file with a chat template that is used in place of the model's own"
    )
