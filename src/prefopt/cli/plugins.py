"""`--plugins NAMES` on every command line: modules and files that are loaded before the verb reads its settings."""

from __future__ import annotations

from collections.abc import Sequence

from prefopt.core.errors import PrefoptError
from prefopt.core.plugins import load_plugins, names_of

OPTION = "--plugins"


def without_plugins(words: Sequence[str]) -> list[str]:
    """The words without those of `--plugins`, after the plug-ins are loaded: those of installed packages, then the named ones.

    `run` keeps the words: its recipe loads and names its plug-ins.

    Raises:
        PrefoptError: a plug-in that is not there or fails; names file and line.
    """
    if not words or words[0] == "run" or words[0].startswith("-"):
        return list(words)
    rest, named = split_plugins(words)
    load_plugins(named)
    return rest


def split_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words, and the plug-ins that `--plugins a,./b.py` or `--plugins "[a, ./b.py]"` names.

    Raises:
        PrefoptError: the option without a value.
    """
    rest: list[str] = []
    named: list[str] = []
    todo = list(words)
    while todo:
        word = todo.pop(0)
        if word != OPTION and not word.startswith(f"{OPTION}="):
            rest.append(word)
            continue
        value = word.partition("=")[2] if "=" in word else (todo.pop(0) if todo else "")
        if not value or value.startswith("--"):
            raise PrefoptError(f"option '{OPTION}' has no value; write '{OPTION} ./my_checks.py'")
        named += names_of(value.strip("[]"))
    return rest, named
