"""Stage 01, sample: N completions per prompt.

Prompt i, sample k is row i*n + k; batches are cut by that row index and each has its own seed, so a run that was
killed and continues samples the same. An engine that is asked row by row (a server) has a seed per row instead, and
stores each answer as it comes. Where several models answer, each has passes and seeds of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.engines import EngineOptions, Sampling, engine_digests, open_engine
from prefopt.engines.client import GAVE_UP
from prefopt.stages.sample.passes import Pass, complete, encode_prompts, shown_reasons
from prefopt.stages.sample.settings import SampleConfig
from prefopt.stages.sample.sources import (
    Source,
    by_model,
    give_memory_back,
    in_order,
    named,
    slug,
    sources_of,
)
from prefopt.stages.sample.system import check_system, with_system
from prefopt.stages.stage import Stage
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.records import Row, make_table, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

EMPTY_SHARE = 0.05  # of completions, from which on it is told
ADDS = ("completion_index", "completion", "model", "finish_reason", "completion_tokens", "seed")


def sample(table: Dataset, config: SampleConfig, context: Context) -> StageOutput:
    """Prompts -> one row per completion: the prompt's columns and `ADDS`; `id` becomes `{prompt_id}-{index}`.

    Rows that ask the same prompt (of pairs, for a further round) are asked once; where there are several models, each
    asks every prompt, and `completion_index` goes on from one to the next. Dropped with a count: prompts that leave no
    room in the model's context, messages that the chat template refuses, completions that a server gave up on or
    refused.

    Raises:
        PrefoptError: no model or engine, a system prompt that does not get through, no prompt left, or no completion.
    """
    dropped: dict[str, int] = {}
    prompts = with_system(_prompt_rows(table), config.system, "sample")
    sources = sources_of(config)
    several = config.models is not None
    names = named(sources, context.model) if several else [None]
    asked: set[str] = set()
    done: list[Row] = []
    start = 0
    for source, name in zip(sources, names, strict=True):
        rows, answered = _of_source(prompts, _Asking(source, name, start, config), context, dropped)
        asked |= {row["prompt_id"] for row in rows}
        done += answered
        start += source.n
    if not asked:
        raise PrefoptError(f"sample: no prompt left ({shown_reasons(dropped)}); see the data")
    if not done:
        raise PrefoptError(f"sample: no completion ({shown_reasons(dropped)}); see the engine's settings")
    done = in_order(done, prompts) if several else done
    quality = {"rows_in": table.num_rows, "prompts": len(asked), **_quality(done)}
    if several:
        quality["models"] = {
            model: {"completions": len(own), **length_figures(own)} for model, own in by_model(done).items()
        }
    if warning := _many_empty(done, quality["empty"]):
        quality["empty_warning"] = warning
    table = make_table(done, ("id", "prompt_id", "prompt"))
    return StageOutput(table, dropped, quality, failed=dropped.get(GAVE_UP, 0))


@dataclass(frozen=True)
class _Asking:
    """One model's part of the work. name: None where it is the only one; start: its first `completion_index`."""

    source: Source
    name: str | None
    start: int
    config: SampleConfig

    @property
    def label(self) -> str:
        return "sample" if self.name is None else f"sample {slug(self.name)}"


def _of_source(
    prompts: Sequence[Row], asking: _Asking, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], list[Row]]:
    """The prompts that the model can be asked, and its completions."""
    source, config = asking.source, asking.config
    options = EngineOptions(source.server, config.vllm, config.continuous_batching, config.engine_options)
    engine = open_engine(source.engine, _directory(source, context), config.dtype, options)
    check_system(prompts, engine, config.system, "sample")
    rows, encoded = encode_prompts(prompts, engine, context, dropped)
    todo = [
        {**row, "completion_index": k, "id": f"{row['prompt_id']}-{k}"}
        for row in rows
        for k in range(asking.start, asking.start + source.n)
    ]
    repeated = [ids for ids in encoded for _ in range(source.n)]
    sampling = Sampling(
        config.temperature, config.top_p, config.top_k, config.max_new_tokens, config.logprobs
    )
    job = Pass(asking.label, context.seed, config.batch_size, context.folder)
    done = complete(
        todo, repeated, engine, sampling, job, lambda reason, where: context.drop(dropped, reason, where)
    )
    if asking.name is not None:
        done = [{**row, "model": asking.name} for row in done]
        del engine
        give_memory_back()
    return rows, done


def _directory(source: Source, context: Context) -> Path | None:
    if source.model is None:
        return context.model
    from prefopt.models.find import resolve_model

    return resolve_model(source.model)


def length_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean completion length (tokens) and the share cut at max_new_tokens; null where a recorded file does not say."""
    tokens = [row["completion_tokens"] for row in rows if row.get("completion_tokens") is not None]
    reasons = [row["finish_reason"] for row in rows if row.get("finish_reason") is not None]
    return {
        "completion_tokens_mean": statistics.fmean(tokens) if tokens else None,
        "completion_chars_mean": statistics.fmean(len(row["completion"]) for row in rows) if rows else None,
        "finish_length_share": reasons.count("length") / len(reasons) if reasons else None,
    }


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
        "model": ", ".join(by_model(rows)),
        **length_figures(rows),
        "distinct_share": distinct / len(rows),
        "empty": sum(not row["completion"].strip() for row in rows),
    }


def _many_empty(rows: Sequence[Row], empty: int) -> str | None:
    """More than a twentieth of empty answers is told, with the likeliest reason."""
    share = empty / len(rows)
    if share <= EMPTY_SHARE:
        return None
    is_text = isinstance(rows[0]["prompt"], str)
    cut = sum(row.get("finish_reason") == "length" for row in rows if not row["completion"].strip())
    if cut * 2 > empty:
        why = "they were cut before a word was said (thinking?): raise sample.max_new_tokens"
    elif is_text:
        why = "the prompts are plain text, and a chat model may end at once: set data.chat: true"
    else:
        why = "the model ends at once: see `prefopt inspect` for what it is given, and data.chat_template_kwargs"
    return f"sample: {100 * share:.0f}% of the completions are empty ({empty} of {len(rows)}); {why}"


def _outside(config: SampleConfig) -> list[str]:
    from prefopt.models.find import resolve_model
    from prefopt.models.load import model_digest

    named_models = [source.model for source in sources_of(config) if source.model is not None]
    plugins = engine_digests(*(source.engine for source in sources_of(config)))
    return [*(model_digest(resolve_model(name)) for name in named_models), *plugins]


STAGE = Stage(
    number=1,
    name="sample",
    config=SampleConfig,
    run=sample,
    reads=("id", "prompt_id", "prompt"),
    adds=ADDS,
    about="sample N completions per prompt",
    needs_model=True,
    outside=_outside,
    shares=lambda config: all(source.engine == "transformers" for source in sources_of(config)),
)
