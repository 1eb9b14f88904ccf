"""Rows of a file for checking: each as it stands there, and as the reader understands it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefopt.rules.content import text_of
from prefopt.stages.data.reading import readers
from prefopt.stages.data.reading.checks import check_row
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.formats import Format
from prefopt.stages.data.reading.opening import opened
from prefopt.tables.records import Row, digest

ANSWERS = {"pairs": ("chosen", "rejected"), "unpaired": ("completion",), "completions": (), "prompts": ()}
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """One row. number: its place among the rows of the file, from 1. row: None where it cannot be used, for `reason`."""

    number: int
    raw: Row
    row: Row | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The row's own id, else its place."""
        for key in ("id", "prompt_id", "question_id", "idx"):
            value = self.raw.get(key)
            if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
                return str(value)
        return f"row {self.number}"

    @property
    def prompt(self) -> str:
        """The prompt's words; empty for a row that cannot be used."""
        return text_of(self.row["prompt"]) if self.row else ""

    @property
    def prompt_key(self) -> str:
        """Equal for rows that ask the same."""
        assert self.row is not None
        return digest(self.row["prompt"], self.row.get("tools"))


@dataclass(frozen=True)
class Checked:
    """A file's rows in their order, and how the reader recognised it."""

    form: Format
    items: list[Item]

    @property
    def usable(self) -> list[Item]:
        """Rows that the reader can use."""
        return [item for item in self.items if item.row is not None]


def read_items(
    source: str, *, kind: str = "auto", split: str | None = None, columns: Mapping[str, str] | None = None
) -> Checked:
    """All rows of any source that the reader knows.

    Raises:
        PrefoptError: unreadable source, unknown format, no rows.
    """
    file = opened(readers.read_rows(source, split), kind, columns or {}, source)
    rows = enumerate(file.rows, start=1)
    return Checked(
        file.form, [_item(number, raw, file.prepare(raw, where), file.form) for number, (raw, where) in rows]
    )


def _item(number: int, raw: Row, renamed: Row, form: Format) -> Item:
    try:
        return Item(number, raw, check_row(form.convert(renamed), form.kind))
    except BadRow as bad:
        return Item(number, raw, None, bad.reason)


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation: what counts as the same text in near-duplicates."""
    return _WORD.findall(text.casefold())


def answers_of(item: Item, kind: str) -> dict[str, str]:
    """Answers of a usable row by name; of recorded completions each by its number."""
    assert item.row is not None
    if kind == "completions":
        return {str(n): said for n, said in enumerate(completion_texts(item.row), start=1)}
    return {name: text_of(item.row[name]) for name in ANSWERS[kind]}


def completion_texts(row: Mapping[str, Any]) -> list[str]:
    """Texts of recorded completions; what is no text counts as empty."""
    return [c["completion"] if isinstance(c.get("completion"), str) else "" for c in row["completions"]]
