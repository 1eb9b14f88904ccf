"""Stage 01, sample: N completions per prompt.

Prompt i, sample k is row i*n + k; batches are cut by that row index and each has its own seed, so a run that was
killed and continues samples the same. An engine that is asked row by row (a server) has a seed per row instead, and
stores each answer as it comes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from prefopt.columns import COLUMNS
from prefopt.config import Config
from prefopt.engines import (
    ENGINES,
    WITHOUT_MODEL,
    Completion,
    Dtype,
    Engine,
    EngineOptions,
    RowEngine,
    Sampling,
    VllmSettings,
    batch_seed,
    open_engine,
)
from prefopt.engines.client import NO_ROOM, ServerSettings
from prefopt.engines.rows import answer_rows
from prefopt.errors import PrefoptError, nearest
from prefopt.records import Row, make_table, rows_of
from prefopt.stage import Context, Stage, StageFolder, StageOutput, map_parts

if TYPE_CHECKING:
    from datasets import Dataset

ADDS = ("completion_index", "completion", "model", "finish_reason", "completion_tokens", "seed")
Drop = Callable[[str, str], None]  # reason, where


def known_engine(name: str) -> str:
    """The name itself; a ValueError naming the nearest engine when there is none of that name."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine, {nearest(name, ENGINES)}")
    return name


class SampleConfig(Config):
    """Settings of the sampling."""

    n: int = Field(16, ge=1, description="completions per prompt")
    temperature: float = Field(1.0, ge=0, description="0 is greedy (then n must be 1)")
    top_p: float = Field(0.95, gt=0, le=1, description="draw from the likeliest tokens that hold this share")
    top_k: int = Field(0, ge=0, description="draw from this many likeliest tokens (0 = all)")
    max_new_tokens: int = Field(256, ge=1, description="longest completion, tokens")
    batch_size: int = Field(
        128, ge=1, description="completions written at once; part of what fixes the samples"
    )
    engine: str = Field("transformers", description=f"what writes: {', '.join(ENGINES)}")
    dtype: Dtype = Field("auto", description="dtype of the model; auto is the checkpoint's own")
    server: ServerSettings | None = Field(None, description="engine server: whom to ask")
    vllm: VllmSettings = Field(VllmSettings(), description="engine vllm: its own settings")  # type: ignore[call-arg]
    continuous_batching: bool = Field(
        False,
        description="engine transformers: its continuous batching; a resumed run may then sample otherwise",
    )
    logprobs: bool = Field(
        False, description="engine vllm: also keep the sampler's log-prob of each completion"
    )

    @property
    def needs_model(self) -> bool:
        """Whether a model directory is wanted (a server has its own)."""
        return self.engine not in WITHOUT_MODEL

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        return known_engine(name)

    @model_validator(mode="after")
    def _fits_engine(self) -> SampleConfig:
        if self.engine == "server" and self.server is None:
            raise ValueError("engine 'server' needs server.base_url (http://HOST:PORT/v1) and server.model")
        for name, given, engine in (
            ("server", self.server is not None, "server"),
            ("continuous_batching", self.continuous_batching, "transformers"),
            ("logprobs", self.logprobs, "vllm"),
        ):
            if given and self.engine != engine:
                raise ValueError(f"{name} is for engine {engine!r}, the engine is {self.engine!r}")
        return self

    @model_validator(mode="after")
    def _greedy_once(self) -> SampleConfig:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                "temperature 0 gives the same completion every time; set n to 1 or temperature above 0"
            )
        return self


def sample(table: Dataset, config: SampleConfig, context: Context) -> StageOutput:
    """Prompts -> one row per completion: the prompt's columns and `ADDS`; `id` becomes `{prompt_id}-{index}`.

    Rows that ask the same prompt (of pairs, for a further round) are asked once. Dropped with a count: prompts that
    leave no room in the model's context, messages that the chat template refuses, completions that a server gave up on
    or refused.

    Raises:
        PrefoptError: no model or engine, no prompt left, or no completion.
    """
    dropped: dict[str, int] = {}
    prompts = _prompt_rows(table)
    options = EngineOptions(config.server, config.vllm, config.continuous_batching)
    engine = open_engine(config.engine, context.model, config.dtype, options)
    rows, encoded = encode_prompts(prompts, engine, context, dropped)
    if not rows:
        raise PrefoptError(f"sample: no prompt left ({_reasons(dropped)}); see the data")
    asked = [
        {**row, "completion_index": k, "id": f"{row['prompt_id']}-{k}"}
        for row in rows
        for k in range(config.n)
    ]
    sampling = Sampling(
        config.temperature, config.top_p, config.top_k, config.max_new_tokens, config.logprobs
    )
    job = Pass("sample", context.seed, config.batch_size, context.folder)
    repeated = [ids for ids in encoded for _ in range(config.n)]
    done = complete(
        asked, repeated, engine, sampling, job, lambda reason, where: context.drop(dropped, reason, where)
    )
    if not done:
        raise PrefoptError(f"sample: no completion ({_reasons(dropped)}); see the engine's settings")
    quality = {"rows_in": table.num_rows, "prompts": len(rows), **_quality(done)}
    return StageOutput(make_table(done, ("id", "prompt_id", "prompt")), dropped, quality)


@dataclass(frozen=True)
class Pass:
    """One pass over rows: its label (unique within the stage), the stage's seed, batch size in rows, and folder."""

    label: str
    seed: int
    batch_size: int
    folder: StageFolder | None


def encode_prompts(
    rows: Sequence[Row], engine: Engine, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], list[Any]]:
    """The rows that can be asked, and their prompts as the engine wants them; the others are counted in `dropped`."""
    from prefopt.llm.template import REFUSED, TemplateRefused

    kept, encoded = [], []
    for row in rows:
        where = f"sample: row {row['id']!r}"
        try:
            ids = engine.encode(row)
        except TemplateRefused as refused:
            context.drop(dropped, REFUSED, f"{where} ({refused})")
            continue
        if engine.max_tokens is not None and len(ids) >= engine.max_tokens:
            context.drop(dropped, NO_ROOM, where)
            continue
        kept.append(row)
        encoded.append(ids)
    return kept, encoded


def complete(
    rows: Sequence[Row],
    encoded: Sequence[Any],
    engine: Engine,
    sampling: Sampling,
    job: Pass,
    drop: Drop | None = None,
) -> list[Row]:
    """Each row with one completion: `completion`, `model`, `finish_reason`, `completion_tokens`, `seed`.

    Batches are cut by row index; batch b is sampled under `batch_seed(job.seed, job.label, b)` and stored when done.
    A `RowEngine` has `batch_seed(job.seed, job.label, row index)` for each row, and its answers are stored one by one;
    rows without an answer go to `drop`.

    Raises:
        PrefoptError: a row has no answer and there is no `drop`.
    """
    if isinstance(engine, RowEngine):
        return _complete_each(rows, encoded, engine, sampling, job, drop)

    def write(chunk: Sequence[Row], start: int) -> list[Row]:
        seed = batch_seed(job.seed, job.label, start // job.batch_size)
        answers = engine.generate(encoded[start : start + len(chunk)], sampling, seed)
        return [
            _completed(row, answer, engine.name, seed, sampling)
            for row, answer in zip(chunk, answers, strict=True)
        ]

    return map_parts(rows, write, folder=job.folder, part_rows=job.batch_size, label=job.label)


def _complete_each(
    rows: Sequence[Row],
    encoded: Sequence[Any],
    engine: RowEngine,
    sampling: Sampling,
    job: Pass,
    drop: Drop | None,
) -> list[Row]:
    seeds = [batch_seed(job.seed, job.label, index) for index in range(len(rows))]
    answers = answer_rows(rows, encoded, engine, sampling, seeds, label=job.label, folder=job.folder)
    done = []
    for row, answer, seed in zip(rows, answers, seeds, strict=True):
        where = f"{job.label}: row {row['id']!r}"
        if isinstance(answer, Completion):
            done.append(_completed(row, answer, engine.name, seed, sampling))
        elif drop is None:
            raise PrefoptError(f"{where}: {answer.reason}; start again, answers that came are kept")
        else:
            drop(answer.reason, where)
    return done


def _completed(row: Row, answer: Completion, model: str, seed: int, sampling: Sampling) -> Row:
    more = {"sampled_logps": answer.logp} if sampling.logprobs else {}
    return {
        **row,
        "completion": answer.text,
        "model": model,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.tokens,
        "seed": seed,
        **more,
    }


def length_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean completion length (tokens) and the share cut at max_new_tokens; null where a recorded file does not say."""
    tokens = [row["completion_tokens"] for row in rows if row.get("completion_tokens") is not None]
    reasons = [row["finish_reason"] for row in rows if row.get("finish_reason") is not None]
    return {
        "completion_tokens_mean": statistics.fmean(tokens) if tokens else None,
        "completion_chars_mean": statistics.fmean(len(row["completion"]) for row in rows) if rows else None,
        "finish_length_share": reasons.count("length") / len(reasons) if reasons else None,
    }


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(dropped.items())) or "the input is empty"


def _prompt_rows(table: Dataset) -> list[Row]:
    """The first row of each prompt; of completions or pairs only the columns that describe the prompt."""
    rows = rows_of(table)
    if {"completion", "chosen"} & set(table.column_names):
        known = [name for name in table.column_names if name in COLUMNS and COLUMNS[name].stage == "data"]
        rows = [{name: row[name] for name in known} for row in rows]
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["prompt_id"], row)
    return list(first.values())


def _quality(rows: Sequence[Row]) -> dict[str, Any]:
    distinct = len({(row["prompt_id"], row["completion"]) for row in rows})
    return {
        "completions": len(rows),
        "model": rows[0]["model"],
        **length_figures(rows),
        "distinct_share": distinct / len(rows),
        "empty": sum(not row["completion"].strip() for row in rows),
    }


STAGE = Stage(
    number=1,
    name="sample",
    config=SampleConfig,
    run=sample,
    reads=("id", "prompt_id", "prompt"),
    adds=ADDS,
    about="sample N completions per prompt",
    needs_model=True,
)
