"""LLaMA-Factory's `dataset_info.json`: which file an entry names, and how its columns and tags are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError, nearest
from prefopt.stages.data.reading.strict_json import parse_json
from prefopt.tables.records import Row

NAME = "dataset_info.json"
# the registry's names for columns -> ours
_COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "output", "history": "history", "messages": "conversations",
    "system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag",
    "images": "images", "videos": "videos", "audios": "audios",
}  # fmt: skip
_TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt", "observation_tag": "observation",
    "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "system_tag": "system"}


def is_registry(path: Path) -> bool:
    """Whether a file is such a registry; the `datasets` library writes files of this name that are none."""
    return (
        path.name == NAME
        and path.is_file()
        and not (path.parent / "state.json").exists()
        and bool(_entries(path))
    )


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    value = parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    known = ("file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")
    if not isinstance(value, dict):
        return {}
    return {name: e for name, e in value.items() if isinstance(e, dict) and any(k in e for k in known)}


def entry(path: Path, name: str | None) -> tuple[str, dict[str, Any]]:
    """The registry's entry `name`, or its only one.

    Raises:
        PrefoptError: no such entry, or several and none named.
    """
    found = _entries(path)
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if name is None:
        raise PrefoptError(
            f"{path}: names {len(found)} data sets; say which with data.split: {', '.join(list(found)[:8])}"
        )
    if name not in found:
        raise PrefoptError(f"{path}: no data set {name!r} in it; {nearest(name, found)}")
    return name, found[name]


def place(path: Path, name: str, known: Mapping[str, Any]) -> str:
    """The file, folder or hub name of an entry."""
    if isinstance(known.get("file_name"), str):
        return str(path.parent / known["file_name"])
    if isinstance(known.get("hf_hub_url"), str):
        subset = known.get("subset")
        return f"{known['hf_hub_url']}:{subset}" if subset else known["hf_hub_url"]
    raise PrefoptError(
        f"{path}: data set {name!r} has neither file_name nor hf_hub_url; give its file as data.path"
    )


def translator(known: Mapping[str, Any]) -> Callable[[Row], Row]:
    """What turns a row of the entry's file into one with the names that the reader knows."""
    names = {
        theirs: _COLUMNS[ours] for ours, theirs in (known.get("columns") or {}).items() if ours in _COLUMNS
    }
    tags = {key: (known.get("tags") or {}).get(key, usual) for key, usual in _TAGS.items()}
    usual = tags == _TAGS

    def translate(row: Row) -> Row:
        row = {names.get(name, name): value for name, value in row.items()}
        if known.get("ranking") and isinstance(row.get("output"), list) and len(row["output"]) == 2:
            row["chosen"], row["rejected"] = row.pop("output")  # the registry's older form
        if not usual:
            for name in ("conversations", "chosen", "rejected"):
                if name in row:
                    row[name] = _retagged(row[name], tags)
        return row

    return translate


def _retagged(value: Any, tags: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_retagged(item, tags) for item in value]
    if not isinstance(value, dict) or tags["role_tag"] not in value:
        return value
    roles = {tags[key]: ours for key, ours in _ROLES.items()} | {tags["function_tag"]: "function_call"}
    said = value[tags["role_tag"]]
    rest = {k: v for k, v in value.items() if k not in (tags["role_tag"], tags["content_tag"])}
    return {**rest, "role": roles.get(said, said), "content": value.get(tags["content_tag"])}
