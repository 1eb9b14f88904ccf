"""Completion in the shell: verbs, options and settings keys, choices of a setting, packaged recipes, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from prefopt.cli.registry import Group, Verb

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

ASK = "__complete"  # what the scripts call: prefopt __complete WORDS..., the last one unfinished
SCRIPTS = {
    "bash": """_prefopt() {
    local IFS=$'\\n'
    COMPREPLY=($(prefopt __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _prefopt prefopt
""",
    "zsh": """#compdef prefopt
_prefopt() {
    local -a found
    found=("${(@f)$(prefopt __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _prefopt prefopt
""",
    "fish": """function __prefopt_complete
    set -l before (commandline -opc)
    prefopt __complete $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c prefopt -a '(__prefopt_complete)'
""",
}


def candidates(top: Group, words: Sequence[str]) -> list[str]:
    """What may stand in place of the last word; empty where a file is to be named."""
    *before, last = words or [""]
    entry: Group | Verb = top
    if before[:1] == ["help"]:
        before = before[1:]
    while isinstance(entry, Group) and before and before[0] in entry.verbs:
        entry = entry.verbs[before.pop(0)]
    if isinstance(entry, Group):
        return [name for name in entry.verbs if name.startswith(last)]
    if last.startswith("-"):
        return sorted({word for word in _options(entry) if word.startswith(last)})
    key = before[-1] if before else ""
    found = list(_values(entry, key)) if key.startswith("--") else []
    if not found and "recipe" in entry.signature.positional:
        from prefopt.pipeline.recipe import packaged_recipes

        found = list(packaged_recipes()) if not key.startswith("--") else []
    return [value for value in found if value.startswith(last)]


def _options(verb: Verb) -> Iterator[str]:
    from prefopt.cli.words import settings_paths

    yield from ("--help", "--plugins")
    for name in verb.signature.fields:
        if name not in verb.signature.positional:
            yield f"--{name.replace('_', '-')}"
    for path in settings_paths(verb.settings()):
        yield f"--{path}"


def _values(verb: Verb, word: str) -> Iterator[str]:
    """The choices of the option or setting that `word` names."""
    from prefopt.cli.words import model_of
    from prefopt.core.settings import OneOf

    path = word.removeprefix("--").replace("-", "_").split(".")
    info: FieldInfo | None = verb.signature.fields.get(".".join(path))
    kind: type[BaseModel] = verb.settings()
    if path[0] in verb.sections and len(path) > 1:
        path = path[1:]
    for part in path if info is None else ():
        info = kind.model_fields.get(part)
        if info is None:
            return
        kind = model_of(info.annotation) or kind
    if info is None:
        return
    for note in info.metadata:
        if isinstance(note, OneOf):
            yield from note.names
    for part in (info.annotation, *get_args(info.annotation)):
        if get_origin(part) is Literal:
            yield from map(str, get_args(part))
        elif part is bool and info.alias is None:
            yield from ("true", "false")
