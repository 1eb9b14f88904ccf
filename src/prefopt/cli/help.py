"""Help of every verb from one source: the fields of its options and settings, each with type, choices, default and meaning."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prefopt.cli.overview import summary_line, wrapped
from prefopt.cli.registry import Verb
from prefopt.cli.words import model_of
from prefopt.core.settings import OneOf

PLAIN = {bool: "true|false", int: "int", float: "number", str: "text", Path: "path", Any: "value"}
BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def verb_help(verb: Verb) -> str:
    """All that can be said to a verb, wrapped at 80 columns."""
    lines = [*wrapped(f"usage: {usage(verb)}", indent=9, first=0), ""]
    lines += [part for text in verb.about.split("\n\n") for part in (*wrapped(" ".join(text.split()), 2), "")]
    fields = dict(verb.signature.fields)
    arguments = {name: fields.pop(name) for name in verb.signature.positional}
    if arguments:
        lines += ["arguments:", *(line for item in arguments.items() for line in _entry(*item, "")), ""]
    lines += ["options:"]
    for name, info in fields.items():
        lines += _entry(name.replace("_", "-"), info, "--", flag=info.annotation is bool)
    if verb.path != ("run",):  # there they are a setting; everywhere else loaded before the settings are read
        lines += ["  --plugins [text, ...]", *wrapped("modules and files of your own (docs/extending.md)", 6)]
    lines += ["  -h, --help", "      show this text"]
    if verb.is_open:
        lines += ["", *_settings(verb)]
    return "\n".join(lines)


def usage(verb: Verb) -> str:
    """The verb in one line: its arguments, required options, and that settings may follow."""
    words = ["prefopt", *verb.path]
    for name, info in verb.signature.fields.items():
        many = get_origin(_without_null(info.annotation)[0]) is list
        if name in verb.signature.positional:
            word = name.upper() + (" ..." if many else "")
        else:
            word = f"--{name.replace('_', '-')}" + ("" if info.annotation is bool else f" {name.upper()}")
        words.append(word if info.is_required() else f"[{word}]")
    return " ".join([*words, *(["[--KEY VALUE ...]"] if verb.is_open else [])])


def _settings(verb: Verb) -> Iterator[str]:
    where = f" or --{verb.sections[-1]}.key value" if verb.sections else ", unique keys without their section"
    if verb.path == ("run",):
        where = " (a key that only one section has also without it: --steps is --train.steps)"
    yield from wrapped(
        f"settings, written --key value{where}; also in the file of --config:"
        if "config" in verb.signature.fields
        else f"settings, written --key value{where}:",
        0,
    )
    try:
        kind = verb.settings()
    except ModuleNotFoundError as error:
        yield from wrapped(f"(listed when {error.name} is installed: pip install 'prefopt[suite]')", 2)
        return
    yield from _fields(kind, "--", frozenset(verb.signature.fields))


def _fields(kind: type[BaseModel], prefix: str, said: frozenset[str] = frozenset()) -> Iterator[str]:
    """The entries of a settings class; those of a field that has settings of its own follow it. said: options above."""
    for name, info in kind.model_fields.items():
        if name not in said:
            yield from _entry(name, info, prefix)
        inner = model_of(info.annotation)
        if inner is not None:
            yield from _fields(inner, f"{prefix}{name}.")


def _entry(name: str, info: FieldInfo, prefix: str, *, flag: bool = False) -> list[str]:
    """`--name TYPE (default: X)`, and the meaning on lines of its own. flag: it stands without a value."""
    default = "required" if info.is_required() else f"default: {default_text(info)}"
    head = f"{prefix}{name}" if flag else f"{prefix}{name} {type_text(info)} ({default})"
    meaning = info.description or _about_inner(info)
    return [*wrapped(head, 10, first=2), *wrapped(meaning, 6)]


def _about_inner(info: FieldInfo) -> str:
    inner = model_of(info.annotation)
    return summary_line(inner.__doc__ or "") if inner is not None else ""


def type_text(info: FieldInfo) -> str:
    """What may be given: a kind with its bounds, or the choices."""
    kind, nullable = _without_null(info.annotation)
    names = next((note.names for note in info.metadata if isinstance(note, OneOf)), None)
    text = kind_text(kind)
    if names:  # in place of "text"; a loss may also be a mapping or a list
        text = text.replace("text", "|".join(names), 1)
    for note in info.metadata:
        text += "".join(
            f" {sign} {_number(getattr(note, key))}"
            for key, sign in BOUNDS
            if getattr(note, key, None) is not None
        )
    return f"{text} or null" if nullable else text


def kind_text(kind: Any) -> str:
    """An annotation in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind]
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(kind_text(part) for part in parts)
    if origin is list or (origin is tuple and parts[-1:] == (...,)):
        return f"[{kind_text(parts[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(kind_text(part) for part in parts)}]"
    if origin is dict:
        return "{name: " + kind_text(parts[1]) + ", ...}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "{" + ", ".join(kind.model_fields) + "}" if len(kind.model_fields) < 6 else "{...}"
    return getattr(kind, "__name__", str(kind)).lower()


def default_text(info: FieldInfo) -> str:
    """A field's default as it would be written."""
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Enum | Path | int | str):
        return str(value) if str(value) else "empty"
    return json.dumps(value, default=str).replace('"', "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_null(annotation: Any) -> tuple[Any, bool]:
    parts = get_args(annotation)
    if get_origin(annotation) not in (Union, types.UnionType) or type(None) not in parts:
        return annotation, False
    rest = [part for part in parts if part is not type(None)]
    return rest[0] if len(rest) == 1 else Union[tuple(rest)], True  # noqa: UP007
