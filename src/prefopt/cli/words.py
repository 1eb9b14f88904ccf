"""From the words of a command to the verb's own options and, for the rest, normal words `--section.key=value` of its settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel

from prefopt.cli.registry import Verb
from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, parse_config, read_value

HELP = ("-h", "--help")
TRUTH = ("true", "false")


@dataclass
class Words:
    """A verb's words, understood: values of its own options, and the settings as words that `parse_overrides` reads."""

    options: dict[str, Any] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    wants_help: bool = False


def read_words(verb: Verb, words: Sequence[str]) -> Words:
    """Sort the words of a verb. Options may stand before and after its arguments; `--` ends them.

    Raises:
        PrefoptError: an unknown option (the nearest one is named), one without a value, or too many arguments.
    """
    found, left, plain = Words(), list(words), []
    while left:
        word = left.pop(0)
        if word in HELP:
            found.wants_help = True
            return found
        if word == "--":
            plain += left
            break
        if word.startswith("--"):
            _option(verb, word, left, found)
        elif word.startswith("-") and len(word) > 1 and not word[1:2].isdigit():
            raise PrefoptError(
                f"prefopt {verb.name}: unknown option {word!r}; options are written '--key value'"
            )
        else:
            plain.append(word)
    _arguments(verb, plain, found)
    return found


def own_options(verb: Verb, words: Words) -> dict[str, Any]:
    """The arguments of the verb's function, checked.

    Raises:
        PrefoptError: one is missing, or has a wrong value.
    """
    given = words.options
    signature = verb.signature
    for written, info in signature.fields.items():
        if info.is_required() and written not in given:
            wanted = written.upper() if written in signature.positional else f"--{written} {written.upper()}"
            raise PrefoptError(f"prefopt {verb.name}: {wanted} is missing; see prefopt {verb.name} --help")
    options = parse_config(signature.options, given, f"prefopt {verb.name}")
    return {name: getattr(options, name) for name in signature.options.model_fields}


def _option(verb: Verb, word: str, left: list[str], found: Words) -> None:
    name, equals, value = word[2:].partition("=")
    name = name.replace("-", "_")
    own = verb.signature.fields
    if name in own and name not in verb.signature.positional:
        kind = own[name].annotation
        if kind is bool and not equals:
            found.options[name] = left.pop(0) if left and left[0] in TRUTH else "true"
            return
        value = value if equals else _value(word, left)
        if _is_list(kind):
            found.options.setdefault(name, []).append(value)
        else:
            found.options[name] = value
        return
    if not verb.is_open:
        known = [option for option in own if option not in verb.signature.positional]
        hint = nearest(name, known) if known else "it has no options"
        raise PrefoptError(f"prefopt {verb.name}: unknown option '--{name}', {hint}")
    path = resolve(verb, name.split("."))
    target = annotation_at(verb.settings(), path)
    if not equals:
        value = "true" if _is_flag(target) and _has_no_value(left) else _value(word, left)
    if isinstance(value, str) and _kind_key(target) and isinstance(read_value(value), str):
        path = [*path, "kind"]
    elif _is_text(target) and not isinstance(read_value(value), str | None):
        value = f'"{value}"'
    found.settings.append(f"--{'.'.join(path)}={value}")


def _arguments(verb: Verb, plain: Sequence[str], found: Words) -> None:
    own = verb.signature.fields
    left = list(plain)
    for name in verb.signature.positional:
        if _is_list(own[name].annotation):
            found.options[name], left = left, []
        elif left:
            found.options[name] = left.pop(0)
    if left:
        raise PrefoptError(
            f"prefopt {verb.name}: unexpected argument {left[0]!r}; options are written '--key value'"
        )


def resolve(verb: Verb, path: Sequence[str]) -> list[str]:
    """Where a setting's key stands in the verb's settings: `train.steps` and `steps` are the same for `train` and `run`.

    Raises:
        PrefoptError: no such key, or several.
    """
    kind = verb.settings()
    head, *rest = path
    if head in kind.model_fields:
        return list(path)
    if head in verb.sections and rest:
        return resolve(verb, rest)
    inner = nested(kind)
    owners = [name for name, model in inner.items() if head in model.model_fields]
    if len(owners) == 1:
        return [owners[0], *path]
    if owners:
        ways = " or ".join(f"--{owner}.{'.'.join(path)}" for owner in owners)
        raise PrefoptError(f"prefopt {verb.name}: '--{'.'.join(path)}' could be {ways}; write which")
    for name, model in inner.items():  # --judge-name is --judge.name
        key = head.removeprefix(f"{name}_")
        if key != head and key in model.model_fields:
            return [name, key, *rest]
    known = {*kind.model_fields, *verb.signature.fields}
    known |= {key for model in inner.values() for key in model.model_fields}
    raise PrefoptError(f"prefopt {verb.name}: unknown key {'.'.join(path)!r}, {_hint(head, known, kind)}")


def _hint(word: str, known: set[str], kind: type[Config]) -> str:
    hint = nearest(word, known)
    return hint if hint.startswith("did") else nearest(word, kind.model_fields)


def nested(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Fields that hold settings of their own -> their class (lists of such are not meant)."""
    found = {}
    for name, info in kind.model_fields.items():
        model = model_of(info.annotation)
        if model is not None:
            found[name] = model
    return found


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The settings class of `Model` or `Model | None`."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return None if _is_list(annotation) else part
    return None


def annotation_at(kind: type[BaseModel], path: Sequence[str]) -> Any:
    """The annotation of the field that a path names; None below free mappings."""
    annotation: Any = kind
    for part in path:
        model = model_of(annotation)
        if model is None or part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
    return annotation


def settings_paths(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a settings class, dotted."""
    for name, info in kind.model_fields.items():
        yield prefix + name
        model = model_of(info.annotation)
        if model is not None:
            yield from settings_paths(model, f"{prefix}{name}.")


def _is_list(annotation: Any) -> bool:
    return any(getattr(part, "__origin__", None) is list for part in (annotation, *get_args(annotation)))


def _is_flag(annotation: Any) -> bool:
    return annotation is bool or set(get_args(annotation)) == {bool, type(None)}


def _is_text(annotation: Any) -> bool:
    return annotation is str or set(get_args(annotation)) == {str, type(None)}


def _kind_key(annotation: Any) -> bool:
    model = model_of(annotation)
    return model is not None and "kind" in model.model_fields and model.model_fields["kind"].is_required()


def _has_no_value(left: Sequence[str]) -> bool:
    return not left or left[0].startswith("--") or left[0] in HELP


def _value(word: str, left: list[str]) -> str:
    if not left or (left[0].startswith("--") and len(left[0]) > 2):
        raise PrefoptError(f"option '{word}' has no value; write '{word} VALUE'")
    return left.pop(0)
