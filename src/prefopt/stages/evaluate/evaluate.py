"""Stage 08, evaluate: verified accuracy on test prompts, sampled and greedy, and pair accuracy on held-out pairs.

Accuracy means: sampled at temperature 1, one sample per prompt unless `n` says otherwise; greedy stands beside it. A
model is compared with the one before it on the same prompts (paired difference, McNemar), and its ranking of held-out
pairs with the reference model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import notice
from prefopt.engines import Engine, EngineOptions, Sampling, engine_digests, open_engine
from prefopt.engines.client import GAVE_UP
from prefopt.stages.evaluate.columns import ADDS
from prefopt.stages.evaluate.figures import against, pair_figures, sample_figures
from prefopt.stages.evaluate.judged import check_prompts, judged
from prefopt.stages.evaluate.pairs import pair_rows
from prefopt.stages.evaluate.served import check_measurable
from prefopt.stages.evaluate.settings import EvaluateConfig
from prefopt.stages.evaluate.singles import ADDS as SINGLE_ADDS
from prefopt.stages.evaluate.singles import is_unpaired, separation, single_rows
from prefopt.stages.sample.passes import Pass, complete, encode_prompts, shown_reasons
from prefopt.stages.sample.system import check_system, with_system
from prefopt.stages.stage import Stage
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.progress import say
from prefopt.tables.records import Row, make_table, rows_of
from prefopt.verify import verifier_digests
from prefopt.verify.verifiers import ANSWER

if TYPE_CHECKING:
    from datasets import Dataset

ASKED = ("id", "prompt_id", "prompt", "gold", "constraints", "tools", "chat_template_kwargs")


def evaluate(table: Dataset, config: EvaluateConfig, context: Context) -> StageOutput:
    """One row per completion of a test prompt (kind sample) and per held-out pair (kind pair); figures in `quality`.

    Held-out unpaired completions are rows of kind unpaired. `table`: pairs or unpaired completions (their split decides
    which are held out), or test prompts. `context.inputs`: `prompts`, the test prompts (else `config.data` is read);
    `before`, the table of this stage for the model to compare with.

    A server's answers are dropped with a count where it gave up or refused, any answer where a check of the user's failed.

    Raises:
        PrefoptError: no model; held-out pairs measured with another tokenizer or template, or to be measured by a
            server, which gives no log-probs; no answer at all.
    """
    dropped: dict[str, int] = {}
    prompts = _test_prompts(table, config, context)
    check_prompts(prompts, config)
    pairs = _pairs(table, config)
    singles = _held_out(table, config) if is_unpaired(table.column_names) else []
    check_measurable(len(pairs) + len(singles), config.engine)
    if not prompts and not pairs and not singles:
        say("evaluate: no test prompt and no held-out pair (see data.heldout, evaluate.data, evaluate.pairs)")
    options = EngineOptions(config.server, more=config.engine_options)
    engine = open_engine(config.engine, context.model, config.dtype, options) if prompts else None
    rows = _sample_rows(prompts, engine, config, context, dropped) if engine else []
    if pairs or singles:
        loaded = _scorer(engine, config, context)
        rows += pair_rows(pairs, loaded, config, context, dropped) if pairs else []
        rows += single_rows(singles, loaded, config, context, dropped) if singles else []
    quality: dict[str, Any] = {
        "rows_in": table.num_rows,
        "test_prompts": len(prompts),
        "heldout_pairs": len(pairs),
    }
    quality |= sample_figures(rows, config.pass_k)
    quality["pairs"] = pair_figures(rows)
    before = context.inputs.get("before")
    quality["against_before"] = against(rows_of(before), rows) if before is not None else None
    if singles:
        quality |= {"heldout_completions": len(singles), "separation": separation(rows)}
    found = make_table(_one_form(rows), (*ADDS, *(SINGLE_ADDS if singles else ())))
    return StageOutput(found, dropped, quality, failed=dropped.get(GAVE_UP, 0))


def _test_prompts(table: Dataset, config: EvaluateConfig, context: Context) -> list[Row]:
    found = context.inputs.get("prompts")
    if found is None and config.data is not None:
        from prefopt.stages.data.chat import for_model
        from prefopt.stages.data.data import data

        read = data(None, for_model(config.data, context.model), Context(context.seed, strict=context.strict))
        if read.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(read.dropped.items()))
            notice(f"evaluate: test prompts dropped: {reasons}")
        found = read.table
    if found is not None:
        rows = rows_of(found)
    elif "chosen" in table.column_names or is_unpaired(table.column_names):
        return []
    else:
        rows = rows_of(table)
        heldout = [row for row in rows if row.get("split") == "eval"]
        rows = heldout or rows
    first: dict[str, Row] = {}
    for row in rows:
        # a verifier of another kind may read any column of the prompt
        names = ASKED if config.verifier.kind == ANSWER else tuple(row)
        first.setdefault(row["prompt_id"], {name: row[name] for name in names if name in row})
    return with_system(list(first.values())[: config.limit], config.system, "evaluate")


# ---- completions of test prompts


def _sample_rows(
    prompts: Sequence[Row], engine: Engine, config: EvaluateConfig, context: Context, dropped: dict[str, int]
) -> list[Row]:
    check_system(prompts, engine, config.system, "evaluate")
    asked, encoded = encode_prompts(prompts, engine, context, dropped)
    drawn = Sampling(config.temperature, config.top_p, config.top_k, config.max_new_tokens)
    certain = Sampling(temperature=0.0, max_new_tokens=config.max_new_tokens)
    rows: list[Row] = []
    for mode, n, sampling in (("sampled", config.n, drawn), ("greedy", int(config.greedy), certain)):
        order = [(row, ids, k) for row, ids in zip(asked, encoded, strict=True) for k in range(n)]
        todo = [{**row, "kind": "sample", "mode": mode, "completion_index": k} for row, _, k in order]
        job = Pass(mode, context.seed, config.batch_size, context.folder)
        rows += complete(
            todo,
            [ids for _, ids, _ in order],
            engine,
            sampling,
            job,
            lambda reason, where: context.drop(dropped, reason, where),
        )
    if asked and not rows and (config.n or config.greedy):
        raise PrefoptError(f"evaluate: no answer ({shown_reasons(dropped)}); see the engine's settings")
    for row in rows:
        row["id"] = f"{row['prompt_id']}-{row['mode']}-{row['completion_index']}"
    return judged(rows, config, context, dropped)


# ---- held-out rows


def _pairs(table: Dataset, config: EvaluateConfig) -> list[Row]:
    return _held_out(table, config) if {"chosen", "rejected"} <= set(table.column_names) else []


def _held_out(table: Dataset, config: EvaluateConfig) -> list[Row]:
    if config.pairs == "none":
        return []
    return [row for row in rows_of(table) if config.pairs == "all" or row.get("split") == "eval"]


def _scorer(engine: Engine | None, config: EvaluateConfig, context: Context) -> tuple[Any, Any]:
    """Model and tokenizer: the engine's own where it has them."""
    from prefopt.models.load import default_device, load_model, load_tokenizer

    loaded: Any = engine
    if hasattr(loaded, "model") and hasattr(loaded, "tokenizer"):
        return loaded.model, loaded.tokenizer
    if context.model is None:
        raise PrefoptError("evaluate: no model; give --model DIR")
    return load_model(context.model, dtype=config.dtype).to(default_device()), load_tokenizer(context.model)


def _one_form(rows: list[Row]) -> list[Row]:
    """Prompts as messages throughout where test prompts and pairs differ in form: a table holds one form."""
    if all(isinstance(row["prompt"], str) for row in rows):
        return rows
    return [
        {**row, "prompt": [{"role": "user", "content": row["prompt"]}]}
        if isinstance(row["prompt"], str)
        else row
        for row in rows
    ]


STAGE = Stage(
    number=8,
    name="evaluate",
    config=EvaluateConfig,
    run=evaluate,
    reads=("id", "prompt_id", "prompt"),
    adds=ADDS,
    about="accuracy and held-out pair accuracy of a model",
    needs_model=True,
    shares=lambda config: config.engine == "transformers",
    outside=lambda config: [*verifier_digests(config.verifier), *engine_digests(config.engine)],
)
