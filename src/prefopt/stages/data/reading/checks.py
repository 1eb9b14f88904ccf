"""Checks of converted rows: what a row must hold to be of use. Pure functions; a bad row raises `BadRow`.

`check_row` sees one row; `check_one_form` and `settle_columns` see the whole table, because text and messages cannot be
mixed and a column has one type.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.stages.data.reading.dialogue import (
    BadRow,
    Content,
    answer,
    is_transcript,
    says_nothing,
    transcript,
    user,
)
from prefopt.stages.data.reading.strict_json import parse_json
from prefopt.tables.columns import COLUMNS
from prefopt.tables.records import Row

# numbers that a file may bring and later stages use; in pairs a bad one drops the row
WEIGHT = "weight"
NUMBERS = (WEIGHT, "margin", "score_chosen", "score_rejected", "ref_chosen_logps", "ref_rejected_logps")
SINGLE_NUMBERS = (WEIGHT, "ref_completion_logps")
# columns of what no text model reads
MEDIA = ("images", "image", "audio", "audios", "videos", "video", "rejected_images")
MEDIA_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".wav",
    ".mp3",
    ".flac",
    ".ogg",
    ".mp4",
    ".avi",
    ".mov",
)
Placed = tuple[Row, str]  # a row and the words that say where it stood
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "strings": (list,),
}


def check_row(row: Row, kind: str) -> Row:
    """A converted row with its prompt, answers, tools and numbers checked, and empty optional columns removed.

    Raises:
        BadRow: with the reason under which the row is dropped.
    """
    row = dict(row)
    _refuse_media(row)
    _check_prompt(row["prompt"])
    if kind == "pairs":
        _check_answers(row["chosen"], row["rejected"])
        _check_numbers(row, NUMBERS)
    if kind == "unpaired":
        _check_answer(row["completion"], "completion")
        _check_numbers(row, SINGLE_NUMBERS)
    _decode_json(row, "tools", list, "a list of tool definitions")
    _decode_json(row, "chat_template_kwargs", dict, "an object")
    return row


def _refuse_media(row: Row) -> None:
    for name in MEDIA:
        value = row.get(name)
        is_path = isinstance(value, str) and value.lower().startswith(
            ("http://", "https://", "data:", "file://")
        )
        is_file = isinstance(value, str) and value.lower().endswith(MEDIA_SUFFIXES)
        if value and (isinstance(value, list | dict) or is_path or is_file):
            raise BadRow(
                f"{name}: images, audio and video are not supported, text alone is", f"{value!r:.60}"
            )


def _check_prompt(prompt: Content) -> None:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadRow("empty prompt")
        return
    if prompt[-1]["role"] == "assistant":
        raise BadRow("prompt ends with an assistant message")
    if all(not (m["content"] or "").strip() for m in prompt):
        raise BadRow("empty prompt")
    number = next((i for i, m in enumerate(prompt, start=1) if says_nothing(m)), None)
    if number is not None:
        raise BadRow("message without content in prompt", f"message {number}")


def _check_answers(chosen: Content, rejected: Content) -> None:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        _check_answer(side, f"{name} answer")
    if chosen == rejected:
        raise BadRow("identical answers")


def _check_answer(side: Content, name: str) -> None:
    if isinstance(side, str):
        if not side.strip():
            raise BadRow(f"empty {name}")
        return
    for place, message in (("begin", side[0]), ("end", side[-1])):
        if message["role"] != "assistant":
            raise BadRow(f"{name} does not {place} with an assistant message", f"role {message['role']!r}")
    if any(says_nothing(m) for m in side):
        raise BadRow(f"empty {name}")


def _check_numbers(row: Row, names: Sequence[str]) -> None:
    for name in names:
        if name not in row:
            continue
        value = number(row[name])
        if value is None and row[name] in (None, ""):
            del row[name]  # the same as a row without the column
            continue
        if value is None:
            raise BadRow(f"{name} is not a number", f"{row[name]!r:.60}")
        if not math.isfinite(value):
            raise BadRow(f"{name} is not finite", repr(value))
        if name == WEIGHT and value < 0:
            raise BadRow("weight is negative", repr(value))
        row[name] = value


def number(value: Any) -> float | None:
    """A float from a number or a numeric text (csv has only texts); None when it is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _decode_json(row: Row, name: str, kind: type, wanted: str) -> None:
    value = row.get(name)
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value, name)
        except PrefoptError:
            raise BadRow(f"{name} is not {wanted}", f"{value!r:.60}") from None
    if value in (None, "", [], {}) or (isinstance(value, str) and not value.strip()):
        row.pop(name, None)
        return
    if not isinstance(value, kind):
        raise BadRow(f"{name} is not {wanted}", f"{value!r:.60}")
    if isinstance(value, list) and any(isinstance(item, str) for item in value):  # tools, each as JSON text
        try:
            value = [parse_json(item, name) if isinstance(item, str) else item for item in value]
        except PrefoptError:
            raise BadRow(f"{name} is not {wanted}", f"{value!r:.60}") from None
    row[name] = value


def check_completion(entry: Row) -> Row:
    """One recorded completion with its text and score checked.

    Raises:
        BadRow: text missing, empty or of a wrong type; a score that is not finite.
    """
    said = entry.get("completion")
    if not isinstance(said, str):
        raise BadRow("completion is not text", f"{said!r:.60}")
    if not said.strip():
        raise BadRow("empty completion")
    if entry.get("score") is None:
        return entry
    score = number(entry["score"])
    if score is None or not math.isfinite(score):
        raise BadRow("score is not a finite number", f"{entry['score']!r:.60}")
    return {**entry, "score": score}


def to_form(row: Row, chat: bool | str | None, kind: str = "pairs") -> Row:
    """`row` with text made a user message (`chat` true), or a lone user message made text (`chat` false); else as it is.

    Raises:
        BadRow: a conversation that no plain text can hold.
    """
    prompt = row["prompt"]
    names = ("completion",) if kind == "unpaired" else ("chosen", "rejected")
    if not isinstance(chat, bool) or chat == isinstance(prompt, list):
        return row
    if chat:
        is_dialogue = is_transcript(prompt)
        changed = {**row, "prompt": transcript(prompt) if is_dialogue else user(prompt)}
        for name in names:
            if isinstance(row.get(name), str):
                changed[name] = answer(row[name].strip() if is_dialogue else row[name])
        return changed
    sides = {name: row[name] for name in names if isinstance(row.get(name), list)}
    lone = [prompt, *sides.values()]
    if any(len(m) != 1 or set(m[0]) != {"role", "content"} for m in lone) or prompt[0]["role"] != "user":
        raise BadRow("conversation cannot be plain text (data.chat is false)")
    return {**row, "prompt": prompt[0]["content"], **{n: m[0]["content"] for n, m in sides.items()}}


def with_system(prompt: Content, system: str) -> Content:
    """`prompt` with a system message in front, unless it has one already; texts are left to `check_one_form`."""
    if isinstance(prompt, str) or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def check_one_form(placed: Sequence[Placed], system: str | None) -> str:
    """text or messages, the one form of all prompts.

    Raises:
        PrefoptError: both forms occur, or system, tools or template arguments are given for plain text.
    """
    first: dict[str, str] = {}
    for row, where in placed:
        first.setdefault("text" if isinstance(row["prompt"], str) else "messages", where)
    if len(first) == 2:
        raise PrefoptError(
            f"text and message rows are mixed: {first['text']} is text, {first['messages']} is messages; "
            "set data.chat: true to turn texts into user messages"
        )
    form = next(iter(first))
    if form == "text":
        names = ("tools", "chat_template_kwargs")
        used = [(n, where) for row, where in placed for n in names if n in row]
        used = [("data.system", placed[0][1]), *used] if system else used
        if used:
            raise PrefoptError(
                f"{used[0][1]}: {used[0][0]} needs message prompts, but prompts are plain text; set data.chat: true"
            )
    return form


def settle_columns(rows: Sequence[Row], keep: Collection[str]) -> dict[str, str]:
    """Rename, in place, columns of the user's that bear a name of ours but cannot be meant: `n` -> `user_n`.

    A column named as in `COLUMNS` stays when all its values have that column's type (csv texts are turned into
    numbers); those in `keep` were checked already. Returns old name -> new name.
    """
    renamed: dict[str, str] = {}
    names = {name for row in rows for name in row if name in COLUMNS and name not in keep}
    taken = {name for row in rows for name in row}
    for name in sorted(names):
        values = [_as_kind(row.get(name), COLUMNS[name].kind) for row in rows]
        if all(fits for fits, _ in values):
            for row, (_, value) in zip(rows, values, strict=True):
                if name in row:
                    row[name] = value
            continue
        new = f"user_{name}"
        while new in taken:
            new += "_"
        renamed[name] = new
        for row in rows:
            if name in row:
                row[new] = row.pop(name)
    return renamed


def _as_kind(value: Any, kind: str) -> tuple[bool, Any]:
    """Whether `value` fits a column of `kind`, and the value to store."""
    if value is None:
        return True, None
    if isinstance(value, str) and kind in ("int", "float", "bool"):
        return _from_text(value.strip(), kind)
    if kind == "json":  # holds anything
        return True, value
    if kind == "content":  # messages are checked where they are known
        return isinstance(value, str), value
    fits = isinstance(value, _PYTHON_TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
    if kind == "int" and fits:
        fits = -(2**63) <= value < 2**63
    if kind == "float" and fits:
        value = number(value)
        fits = value is not None
    if kind == "strings" and fits:
        fits = all(isinstance(item, str | None) for item in value)
    return fits, value


def _from_text(text: str, kind: str) -> tuple[bool, Any]:
    if not text:
        return True, None
    if kind == "bool":
        known = {"true": True, "false": False, "1": True, "0": False}
        return text.lower() in known, known.get(text.lower())
    value = number(text)
    if value is None or (kind == "int" and not value.is_integer()):
        return False, None
    return True, int(value) if kind == "int" else value
