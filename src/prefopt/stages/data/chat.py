"""Text prompts and models with a chat template: text becomes messages, unless `data.chat` says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.models.find import has_chat_template
from prefopt.stages.data.reading.checks import to_form
from prefopt.stages.data.settings import DataConfig
from prefopt.tables.progress import say
from prefopt.tables.records import make_table, rows_of

if TYPE_CHECKING:
    from datasets import Dataset

PLAIN = "plain_text"  # column of rows that are text on purpose


def for_model(config: DataConfig, model: Path | None) -> DataConfig:
    """`config` with `chat: auto` settled: messages where the model has a chat template, else as the rows are."""
    if config.chat != "auto" or model is None or not has_chat_template(model):
        return config
    return config.model_copy(update={"chat": True})


def in_messages(table: Dataset, model: Path | None, stage: str) -> Dataset:
    """A table of text prompts as messages, for a model with a chat template; any other table as it is.

    Rows that are text on purpose (`data.chat: false`) and log-probs that are known already stay as they are.
    """
    names = set(table.column_names)
    if (
        model is None
        or not table.num_rows
        or "prompt" not in names
        or names & {"ref_chosen_logps", "ref_completion_logps"}
    ):
        return table
    first: dict[str, Any] = table[0]
    if not isinstance(first["prompt"], str) or first.get(PLAIN) or not has_chat_template(model):
        return table
    kind = "unpaired" if "label" in names and "chosen" not in names else "pairs"
    say(f"{stage}: {told(model)}")
    return make_table([to_form(row, True, kind) for row in rows_of(table)], table.column_names)


def told(model: Path) -> str:
    """The line that says so."""
    return (
        f"text prompts become messages, for the chat template of {model} (data.chat: false keeps them text)"
    )
