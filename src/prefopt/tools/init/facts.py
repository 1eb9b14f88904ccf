"""What `prefopt init` looks at: lengths of the data by the model's own tokenizer, size of the model, memory and kind of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.models.find import has_chat_template, resolve_model
from prefopt.pipeline.costs import ModelSize, model_size
from prefopt.stages.data import data as reading
from prefopt.stages.data.chat import for_model
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.context import Context
from prefopt.tables.records import rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 1000  # rows whose lengths are taken, evenly over the file
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class DataFacts:
    """Of the data file. kind: prompts, completions, pairs or unpaired; columns: of the table that was read.

    prompt, answer, both: tokens at the QUANTILES of prompts, of answers (the longest of a row; empty without answers),
    and of prompt and answer together; looked_at: rows that were counted.
    """

    kind: str
    rows: int
    columns: tuple[str, ...]
    has_gold: bool
    looked_at: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    both: tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """device: cuda or cpu; memory: bytes that are free on it; has_bf16: whether it computes in bfloat16 by itself."""

    device: str
    name: str
    memory: int
    has_bf16: bool


@dataclass(frozen=True)
class ModelFacts:
    """Of the model. positions: longest text that it takes, None where it says nothing."""

    directory: Path
    size: ModelSize
    positions: int | None
    chats: bool


def model_facts(name: str) -> ModelFacts:
    """Find a model and read its size from the headers of its weights.

    Raises:
        PrefoptError: no such model, or its files cannot be read.
    """
    from prefopt.models.load import check_directory, load_config

    directory = resolve_model(name)
    check_directory(directory)
    config = load_config(directory).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    return ModelFacts(directory, model_size(directory), positions, has_chat_template(directory))


def data_facts(path: str, model: ModelFacts, seed: int) -> DataFacts:
    """Read a data file as a run would, and count tokens of its rows.

    Raises:
        PrefoptError: the file cannot be read, or the model's template refuses every row that is looked at.
    """
    from prefopt.models.load import load_tokenizer

    config = for_model(DataConfig(path=path), model.directory)
    read = reading.data(None, config, Context(seed=seed))
    table = read.table
    places = np.unique(np.linspace(0, table.num_rows - 1, min(LOOKED_AT, table.num_rows)).round().astype(int))
    lengths = _lengths(rows_of(table.select(places)), load_tokenizer(model.directory))
    answers = [answer for _, answer in lengths if answer]
    return DataFacts(
        kind=str(read.quality["kind"]),
        rows=table.num_rows,
        columns=tuple(table.column_names),
        has_gold="gold" in table.column_names and any(value is not None for value in table["gold"]),
        looked_at=len(lengths),
        prompt=quantiles([prompt for prompt, _ in lengths]),
        answer=quantiles(answers),
        both=quantiles([prompt + answer for prompt, answer in lengths]),
    )


def _lengths(rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """(prompt, longest answer) of each row in tokens; rows that the template refuses are left out."""
    from prefopt.models.template import encode_answer, encode_prompt

    found, problem = [], ""
    for row in rows:
        answers = [row[name] for name in ("chosen", "rejected", "completion") if row.get(name)]
        try:
            prompt = len(encode_prompt(tokenizer, row["prompt"], row.get("tools"), **_options(row)))
            spans = [encode_answer(tokenizer, row, answer, max_length=1 << 30) for answer in answers]
        except PrefoptError as error:
            problem = str(error)
            continue
        found.append((prompt, max((len(span.answer_ids) for span in spans), default=0)))
    if not found:
        raise PrefoptError(f"prefopt init: the model's template takes no row of the data ({problem})")
    return found


def _options(row: dict[str, Any]) -> dict[str, Any]:
    return dict(row.get("chat_template_kwargs") or {})


def quantiles(values: Sequence[int]) -> tuple[int, ...]:
    """The least value that QUANTILES of all do not exceed; empty for none."""
    order = sorted(values)
    return tuple(order[max(0, math.ceil(q * len(order)) - 1)] for q in QUANTILES) if order else ()


def this_machine() -> Machine:
    """The CUDA device where there is one, else the processor, with the memory that is free now."""
    import torch

    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine("cuda", torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported())
    return Machine(
        "cpu", "this processor", _free_memory(), bool(_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    )


def _free_memory() -> int:
    """Bytes that can be had without swapping, of Linux's own estimate; elsewhere half of all."""
    import os

    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return 8 << 30


def _flags() -> set[str]:
    """What the processor can do, as Linux names it; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return set(line.partition(":")[2].split())
