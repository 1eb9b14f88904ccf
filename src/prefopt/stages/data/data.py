"""Stage 00, data: any known file of prompts, recorded completions or pairs -> one table in our columns.

    readers (file -> raw rows) -> formats (raw row -> our row) -> checks -> duplicates -> ids -> split -> table

Four kinds of tables come out (`quality["kind"]`): prompts (stage 01 follows), completions (02 follows), pairs and
unpaired completions with a label (04 follows). A row that cannot be used is dropped and counted by reason. Names and the held-out share depend on the content
and the seed alone, never on the order of rows: all rows of one prompt are on one side of the split.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.mixture import mixed, mixture_figures
from prefopt.stages.data.reading.added import format_digests
from prefopt.stages.data.reading.checks import (
    NUMBERS,
    SINGLE_NUMBERS,
    Placed,
    check_one_form,
    check_row,
    settle_columns,
    to_form,
    with_system,
)
from prefopt.stages.data.reading.completions import one_per_completion, require_gold_model
from prefopt.stages.data.reading.dialogue import BadRow, turns
from prefopt.stages.data.reading.files import plain
from prefopt.stages.data.reading.formats import Format
from prefopt.stages.data.reading.naming import content_key, hold_out, name_rows, set_aside
from prefopt.stages.data.reading.opening import Opened, opened
from prefopt.stages.data.reading.sources import Source, sources_digest, sources_of
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.stage import Stage
from prefopt.tables.columns import COLUMNS
from prefopt.tables.context import Context
from prefopt.tables.folder import StageOutput
from prefopt.tables.progress import say
from prefopt.tables.records import Row, digest, make_table, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

_NAMED = {
    "prompts": ("id", "prompt_id", "prompt", "split"),
    "completions": ("id", "prompt_id", "prompt", "split", "completion_index", "completion", "model", "finish_reason",
                    "completion_tokens", "seed"),
    "pairs": ("id", "prompt_id", "prompt", "split", "chosen", "rejected"),
    "unpaired": ("id", "prompt_id", "prompt", "split", "completion", "label"),
}  # fmt: skip
# columns that hold what they must by construction; other names of our vocabulary are looked at by `settle_columns`
_SETTLED = (
    "plain_text",
    "count_in_answer",
    "id",
    "prompt_id",
    "prompt",
    "split",
    "tools",
    "chat_template_kwargs",
    "gold",
)
_SETTLED_BY_KIND = {
    "prompts": (),
    "completions": ("completion", "completion_index"),
    "pairs": ("chosen", "rejected", *NUMBERS),
    "unpaired": ("completion", "label", *SINGLE_NUMBERS),
}


def source_digest(config: DataConfig) -> str:
    """SHA-256 (hex) that stands for the content of the source, or of all of them.

    Raises:
        PrefoptError: no path, or nothing readable there.
    """
    return sources_digest(config)


def data(table: Dataset | Sequence[Row] | None, config: DataConfig, context: Context) -> StageOutput:
    """Read `config.path` (or, from Python, convert the rows that `table` is or holds) into a table of one of the four kinds.

    Raises:
        PrefoptError: unreadable source, unknown format, text and messages mixed, no row left; when strict, any bad row.
    """
    dropped: dict[str, int] = {}
    source, files = _files(table, config)
    form, placed, counts = _read(files, config, context, dropped)
    rows_in = counts["rows_in"]
    if form.kind in ("pairs", "unpaired"):
        placed = _without_lost_weights(placed, source, context, dropped)
    placed = _without_repeats(placed, form.kind, context, dropped)
    _refuse_nothing(placed, rows_in, dropped, source)
    placed, aside = _part(placed, config, source)
    shape = check_one_form(placed, config.system)
    quality: dict[str, Any] = {
        "kind": form.kind,
        "source_format": form.name,
        "format": shape,
        **counts,
        **aside,
    }
    quality["digest"] = None if table is not None else source_digest(config)
    rows = [row for row, _ in placed]
    if form.kind == "pairs":
        _set_margin(rows)
    quality |= name_rows(rows, form.kind)
    quality |= hold_out(rows, config.heldout, context.seed)
    if form.kind == "completions":
        if config.gold_model is not None and "gold_model" in config.model_fields_set:
            require_gold_model(placed, config.gold_model, source)
        rows, found = one_per_completion(placed, config.gold_model, context, dropped)
        quality |= found
        _refuse_nothing(rows, rows_in, dropped, source)
    quality["renamed"] = settle_columns(rows, (*_SETTLED, *_SETTLED_BY_KIND[form.kind]))
    quality |= _figures(rows, form.kind)
    if table is None:
        say(_told(source, quality))
    return StageOutput(make_table(rows, _NAMED[form.kind]), dropped, quality)


def _told(source: str, quality: Mapping[str, Any]) -> str:
    """One line: as what a file was read, and the columns that nothing reads."""
    said = f"{source}: read as {quality['kind']} (form {quality['source_format']}, {quality['format']})"
    if quality["became_messages"]:
        said += "; text prompts became messages, for the chat template (data.chat: false keeps them text)"
    names = [name if name.isprintable() else repr(name) for name in quality["unread"]]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{said}; kept but not read: {', '.join(names[:12])}{more}" if names else said


# ---- rows in


def _files(
    table: Dataset | Sequence[Row] | None, config: DataConfig
) -> tuple[str, list[tuple[Source | None, Opened]]]:
    """What messages call the input, and its sources, opened."""
    if table is not None:
        return "table", [(None, opened(_table_rows(table, config), config.kind, config.columns, "table"))]
    sources = sources_of(config)
    files = [opened(s.rows(config.limit), config.kind, s.columns, s.name) for s in sources]
    for source, file in zip(sources, files, strict=True):
        if file.form.kind != files[0].form.kind:
            raise PrefoptError(
                f"data.path: {sources[0].name} holds {files[0].form.kind}, but {source.name} holds {file.form.kind}; give "
                "sources of one kind, or set data.kind"
            )
    return ", ".join(s.name for s in sources), list(zip(sources, files, strict=True))


def _read(
    files: Sequence[tuple[Source | None, Opened]],
    config: DataConfig,
    context: Context,
    dropped: dict[str, int],
) -> tuple[Format, list[Placed], dict[str, Any]]:
    """The form, the usable rows of all sources (mixed by their weights), and counts."""
    found = [_convert(file, config, context, dropped) for _, file in files]
    parts = [placed for placed, _ in found]
    form = files[0][1].form
    counts: dict[str, Any] = {
        "rows_in": sum(seen["rows_in"] for _, seen in found),
        "unread": sorted({name for _, seen in found for name in seen["unread"]}),
        "became_messages": sum(seen["became_messages"] for _, seen in found),
    }
    sources = [source for source, _ in files if source is not None]
    weights = [source.weight for source in sources if source.weight is not None]
    kept = mixed(parts, weights, form.kind, context.seed) if weights else parts
    if len(files) > 1:
        counts["mixture"] = mixture_figures([source.name for source in sources], parts, kept)
    return form, [placed for part in kept for placed in part], counts


def _table_rows(table: Dataset | Sequence[Row], config: DataConfig) -> Iterator[Placed]:
    rows = table if isinstance(table, Sequence) else rows_of(table)
    for number, row in enumerate(itertools.islice(rows, config.limit), start=1):
        yield {name: plain(value) for name, value in row.items()}, f"table: row {number}"


def _convert(
    file: Opened, config: DataConfig, context: Context, dropped: dict[str, int]
) -> tuple[list[Placed], dict[str, Any]]:
    """Rows as the form reads them, and: how many there were, columns that nothing reads, texts that became messages."""
    form = file.form
    options = template_options(config)
    chat = True if options and config.chat == "auto" else config.chat
    placed = []
    count = became = 0
    unread: set[str] = set()
    for raw, where in file.rows:
        count += 1
        ready = file.prepare(raw, where)
        try:
            converted = form.convert(ready)
            unread |= (converted.keys() & ready.keys()) - COLUMNS.keys()
            row = to_form(converted, chat, form.kind)
            became += isinstance(row["prompt"], list) and isinstance(converted["prompt"], str)
            if config.system is not None:
                row["prompt"] = with_system(row["prompt"], config.system)
            if config.chat is False and isinstance(row["prompt"], str):
                row["plain_text"] = True
            if config.count != "assistant":
                row["count_in_answer"] = config.count
            placed.append((with_options(check_row(row, form.kind), options), where))
        except BadRow as bad:
            context.drop(dropped, bad.reason, f"{where} ({bad.detail})" if bad.detail else where)
    return placed, {"rows_in": count, "unread": sorted(unread), "became_messages": became}


def template_options(config: DataConfig) -> Row:
    """Arguments for the chat template that all rows get: `data.chat_template_kwargs`, and a template file's text.

    Raises:
        PrefoptError: the file cannot be read.
    """
    options = dict(config.chat_template_kwargs)
    if config.chat_template is not None:
        try:
            options["chat_template"] = config.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise PrefoptError(
                f"data.chat_template {config.chat_template}: cannot be read ({reason}); give a file"
            ) from None
    return options


def with_options(row: Row, options: Row) -> Row:
    """The row with `options` for its chat template, below its own."""
    return (
        {**row, "chat_template_kwargs": {**options, **row.get("chat_template_kwargs", {})}}
        if options
        else row
    )


def _without_lost_weights(
    placed: list[Placed], source: str, context: Context, dropped: dict[str, int]
) -> list[Placed]:
    """Where most rows have a weight, a row without one is dropped: any number put there would be a guess.

    Raises:
        PrefoptError: most rows have none, so that it is not clear what is meant.
    """
    weighted = sum("weight" in row for row, _ in placed)
    if not weighted:
        return placed
    if 2 * weighted < len(placed):
        first = next(where for row, where in placed if "weight" in row)
        raise PrefoptError(
            f"{source}: {weighted} of {len(placed)} rows {'has' if weighted == 1 else 'have'} a weight (first: {first}), so "
            "that the others would be dropped; give every row a weight, or none"
        )
    for row, where in placed:
        if "weight" not in row:
            context.drop(dropped, "weight is missing", where)
    return [(row, where) for row, where in placed if "weight" in row]


def _without_repeats(
    placed: list[Placed], kind: str, context: Context, dropped: dict[str, int]
) -> list[Placed]:
    seen: set[str] = set()
    kept = []
    for row, where in placed:
        key = content_key(row, kind)
        if key in seen:
            context.drop(dropped, "repeated row", where)
            continue
        seen.add(key)
        kept.append((row, where))
    return kept


def _part(placed: list[Placed], config: DataConfig, source: str) -> tuple[list[Placed], dict[str, int]]:
    """The rows of the part that is wanted, and how many were left to the other one."""
    if not config.tuning:
        return placed, {}
    wanted = config.part == "tuning"
    aside = set_aside([row["prompt"] for row, _ in placed], config.tuning)
    kept = [one for one, is_aside in zip(placed, aside, strict=True) if is_aside == wanted]
    if not kept:
        raise PrefoptError(
            f"{source}: data.tuning: all rows ask one prompt, so that none can be set aside; give more prompts or a file of "
            "tuning prompts"
        )
    return kept, {"left_to_tuning" if not wanted else "left_to_training": len(placed) - len(kept)}


def _refuse_nothing(rows: Sequence[Any], rows_in: int, dropped: Mapping[str, int], source: str) -> None:
    if not rows:
        reasons = ", ".join(
            f"{reason} ({count})" for reason, count in sorted(dropped.items(), key=lambda i: -i[1])[:8]
        )
        raise PrefoptError(
            f"{source}: no row of {rows_in} is left: {reasons}; mend the file or map data.columns"
        )


# ---- figures


def _figures(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    asked = {row["prompt_id"]: turns(row["prompt"]) for row in rows}
    held = sum(row["split"] == "eval" for row in rows)
    figures: dict[str, Any] = {
        "rows": len(rows),
        "heldout_rows": held,
        "turns": {str(n): count for n, count in sorted(Counter(asked.values()).items())},
    }
    if kind == "prompts":
        figures["gold"] = sum(row.get("gold") is not None for row in rows)
    if kind == "pairs":
        figures |= _pair_figures(rows)
    if kind == "unpaired":
        answers = {(digest(row["prompt"], row["completion"]), row["label"]) for row in rows}
        figures["desired"] = sum(row["label"] for row in rows)
        figures["chars_completion"] = sum(_chars(row["completion"]) for row in rows) / len(rows)
        figures["contradicting_labels"] = sum((name, not label) in answers for name, label in answers) // 2
    return figures


def _set_margin(rows: Sequence[Row]) -> None:
    for row in rows:
        better, worse = row.get("score_chosen"), row.get("score_rejected")
        if row.get("margin") is None and better is not None and worse is not None:
            row["margin"] = better - worse


def _pair_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean lengths, and how many pairs contradict one another or their own margin."""
    orders = {digest(row["prompt"], row["chosen"], row["rejected"]) for row in rows}
    return {
        "chars_chosen": sum(map(_chars, (row["chosen"] for row in rows))) / len(rows),
        "chars_rejected": sum(map(_chars, (row["rejected"] for row in rows))) / len(rows),
        "contradicting_pairs": sum(digest(r["prompt"], r["rejected"], r["chosen"]) in orders for r in rows),
        "negative_margins": sum((row.get("margin") or 0.0) < 0 for row in rows),
    }


def _chars(side: Any) -> int:
    return len(side) if isinstance(side, str) else sum(len(m["content"] or "") for m in side)


STAGE = Stage(
    0,
    "data",
    DataConfig,
    data,
    reads=(),
    adds=("id", "prompt_id", "prompt", "split"),
    about="read prompts, recorded completions or pairs",
    outside=lambda config: [
        *format_digests(),
        *([digest(template_options(config))] if config.chat_template else []),
    ],
)
