"""Rows of a file for checking: each as it stands there, and as the reader understands it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.rules.content import text_of
from prefopt.stages.data.reading import readers
from prefopt.stages.data.reading.checks import check_row
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.formats import Format, detect
from prefopt.tables.records import Row, digest

PEEK = 200  # rows that decide the format, as in stage 00
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
    stream = (row for row, _ in readers.read_rows(source, split))
    head = list(itertools.islice(stream, PEEK))
    if not head:
        raise PrefoptError(f"{source}: holds no rows; give a file with rows")
    names = columns or {}
    form = detect(_sample([_renamed(row, names) for row in head]), kind, source)
    rows = enumerate(itertools.chain(head, stream), start=1)
    return Checked(form, [_item(number, raw, _renamed(raw, names), form) for number, raw in rows])


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    return {names.get(name, name): value for name, value in row.items()}


def _sample(rows: list[Row]) -> Row:
    sample: Row = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                sample.setdefault(name, value)
    return sample


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
