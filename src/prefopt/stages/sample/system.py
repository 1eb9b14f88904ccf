"""One system prompt for all prompts: put in front of them, and shown to get through the chat template."""

from __future__ import annotations

from collections.abc import Sequence

from prefopt.core.errors import PrefoptError
from prefopt.engines import Engine
from prefopt.tables.records import Row

ROLES = ("system", "developer")
REMEDY = "remove the setting, or put the text into the prompts"


def checked_system(text: str | None) -> str | None:
    """The setting itself; a ValueError where it says nothing."""
    if text is not None and not text.strip():
        raise ValueError("an empty system prompt; write one or leave the setting out")
    return text


def with_system(rows: Sequence[Row], system: str | None, where: str) -> list[Row]:
    """The rows with `system` as first message of their prompt; a text prompt becomes the message of a user.

    Raises:
        PrefoptError: a prompt has a system message of its own.
    """
    return list(rows) if system is None else [_opened(row, system, where) for row in rows]


def _opened(row: Row, system: str, where: str) -> Row:
    prompt = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    own = next((message["role"] for message in messages if message["role"] in ROLES), None)
    if own is not None:
        raise PrefoptError(
            f"{where}: row {row['id']!r} has a {own} message already; remove it there, or remove the setting system"
        )
    return {**row, "prompt": [{"role": "system", "content": system}, *messages]}


def check_system(rows: Sequence[Row], engine: Engine, system: str | None, where: str) -> None:
    """Look whether the engine's chat template shows the system message, at the first row that it takes without one.

    A server is only asked: one that refuses system messages says so at the first call.

    Raises:
        PrefoptError: there is no template, it refuses system messages, or it leaves them out.
    """
    from prefopt.models.template import TemplateRefused

    for row in rows if system is not None else ():
        try:
            bare = engine.encode({**row, "prompt": row["prompt"][1:]})
        except TemplateRefused:  # the row itself is at fault, and will be dropped
            continue
        except PrefoptError as error:
            raise PrefoptError(f"{where}: system: {engine.name}: {error}") from None
        try:
            shown = engine.encode(row)
        except TemplateRefused as refused:
            raise PrefoptError(
                f"{where}: system: the chat template of {engine.name} refuses a system message ({refused}); {REMEDY}"
            ) from None
        if shown == bare:
            raise PrefoptError(
                f"{where}: system: the chat template of {engine.name} leaves the system message out; {REMEDY}"
            )
        return
