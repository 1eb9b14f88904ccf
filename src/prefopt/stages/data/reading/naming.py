"""Names and sides of rows, decided by content and seed alone, never by the order of rows.

Content hashes are SHA-256 over the prompt, the tools and the answers, so equal rows have equal names on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefopt.rules.content import prompt_words
from prefopt.tables.records import Row, digest

ID_DIGITS = 16  # hex digits of a content hash: 64 bits


def content_key(row: Row, kind: str) -> str:
    """Hash of what makes two rows the same row."""
    names = {
        "pairs": ("chosen", "rejected"),
        "unpaired": ("completion", "label"),
        "completions": ("completions",),
        "prompts": ("gold",),
    }[kind]
    return digest(kind, row["prompt"], row.get("tools"), *(row.get(name) for name in names))


def _given_name(row: Row, *names: str) -> str | None:
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value
    return None


def name_rows(rows: Sequence[Row], kind: str) -> dict[str, int]:
    """Give every row, in place, an `id` and a `prompt_id`: the file's where they name one thing, else content hashes."""
    prompts = [digest("prompt", row["prompt"], row.get("tools"))[:ID_DIGITS] for row in rows]
    contents = [content_key(row, kind)[:ID_DIGITS] for row in rows]
    if kind in ("pairs", "unpaired"):
        ids, mended = _unique([_given_name(row, "id") for row in rows], contents)
        prompt_ids, split_up = _unique([_given_name(row, "prompt_id") for row in rows], prompts)
    else:
        # rows that ask one prompt are one prompt's completions; two prompts that differ only in gold are two
        meanings = prompts if kind == "completions" else contents
        ids, mended = _unique([_given_name(row, "id", "prompt_id", "question_id") for row in rows], meanings)
        prompt_ids, split_up = ids, 0
    for row, name, prompt in zip(rows, ids, prompt_ids, strict=True):
        row["id"], row["prompt_id"] = name, prompt
    return {"ids_made_unique": mended, "prompt_ids_made_unique": split_up}


def _unique(given: Sequence[str | None], contents: Sequence[str]) -> tuple[list[str], int]:
    """Names such that one name stands for one content: a name that was given to several gets the content's hash behind."""
    meanings: dict[str, set[str]] = {}
    for name, meaning in zip(given, contents, strict=True):
        if name is not None:
            meanings.setdefault(name, set()).add(meaning)
    names, mended = [], 0
    for name, meaning in zip(given, contents, strict=True):
        if name is None:
            names.append(meaning)
        elif len(meanings[name]) == 1:
            names.append(name)
        else:
            names.append(f"{name}-{meaning[:8]}")
            mended += 1
    return names, mended


def hold_out(rows: Sequence[Row], share: float, seed: int) -> dict[str, Any]:
    """Set `split` in place: the file's own where it says train and eval for whole prompts, else by hash of prompt and seed."""
    keys = [digest("split", seed, row["prompt"]) for row in rows]
    by_prompt: dict[str, set[Any]] = {}
    for row, key in zip(rows, keys, strict=True):
        by_prompt.setdefault(key, set()).add(row.get("split") if isinstance(row.get("split"), str) else None)
    from_file = {v for values in by_prompt.values() for v in values} == {"train", "eval"}
    from_file = from_file and all(len(values) == 1 for values in by_prompt.values())
    held = set() if from_file else _lowest(sorted(by_prompt), share)
    kept_aside = not from_file and any(row.get("split") is not None for row in rows)
    for row, key in zip(rows, keys, strict=True):
        if kept_aside:
            row["user_split"] = row.get("split")
        row["split"] = row["split"] if from_file else "eval" if key in held else "train"
    chosen = {key for row, key in zip(rows, keys, strict=True) if row["split"] == "eval"}
    return {
        "split_by": "file" if from_file else "hash",
        "prompts": len(by_prompt),
        "heldout_prompts": len(chosen),
    }


def set_aside(prompts: Sequence[Any], share: float) -> list[bool]:
    """Which prompts are for tuning, by hash of their words alone, whatever the seed; both sides get one where there are two."""
    keys = [digest("tuning", prompt_words(prompt)) for prompt in prompts]
    held = _lowest(sorted(set(keys)), share)
    return [key in held for key in keys]


def _lowest(keys: Sequence[str], share: float) -> set[str]:
    """Keys (sorted hashes) that fall below `share` of the hash space; both sides get one where there are two.

    A single one is trained on: nothing would be left.
    """
    if len(keys) < 2:
        return set()
    held = {key for key in keys if int(key[:13], 16) < share * 16**13}
    if share > 0:
        held = held or {keys[0]}
        held = held if len(held) < len(keys) else held - {keys[-1]}
    return held
