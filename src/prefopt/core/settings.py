"""Typed, frozen settings: unknown keys are errors that name the nearest known one; one override rule for files and flags."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from prefopt.core.errors import PrefoptError, nearest

C = TypeVar("C", bound="Config")
LARGEST = 2**63 - 1  # of a whole number in settings, as in every table
DEEPEST = 64  # lists and mappings within one another
MOST_VALUES = 100_000  # of all settings together
SHOWN = 200  # characters of a value in an error line
_NUMBER = re.compile(r"[-+]?(\d{1,300}|(\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class OneOf:
    """Note on a text field: the names it may have, read from a table when they are shown, so that plug-ins are among them."""

    table: Callable[[], Iterable[str]]

    @property
    def names(self) -> list[str]:
        """The names, in the table's order."""
        return list(self.table())

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """The names as suggestions: an editor offers them, and takes what a plug-in adds."""
        return {"anyOf": [{"enum": self.names}, handler(core)]}


class Config(BaseModel):
    """Base of every settings object: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def parse_config(kind: type[C], data: Mapping[str, Any], where: str) -> C:
    """Build `kind` from plain data; `where` (file or command) stands in the error.

    Raises:
        PrefoptError: unknown key, wrong type or a value out of range, a text that cannot be stored; one line naming
            the key.
    """
    _Check(where).look(dict(data))
    try:
        found = kind.model_validate(dict(data))
    except ValidationError as error:
        raise PrefoptError(f"{where}: {_explain(kind, error)}") from None
    _Check(where).look(found.model_dump())  # a text of digits has become a number
    return found


class _Check:
    """Refuses what no setting can be: whole numbers beyond 64 bits, text that is not UTF-8 or holds a zero byte, values
    without end (YAML can name a list many times over, or within itself).
    """

    def __init__(self, where: str) -> None:
        self.where, self.left = where, MOST_VALUES

    def look(self, value: Any, key: str = "", depth: int = 0) -> None:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST:
            raise PrefoptError(
                f"{self.where}: {shortened(key)}: nested too deep, or too many values; flatten it"
            )
        if isinstance(value, Mapping | list):
            for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
                self.look(name, f"{key} (a key in it)" if key else "a key", depth + 1)
                self.look(inner, f"{key}.{name}" if key else str(name), depth + 1)
        elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            digits = len(hex(value)) - 2
            raise PrefoptError(
                f"{self.where}: {key}: a number of {digits} hexadecimal digits; give a smaller one"
            )
        elif isinstance(value, str):
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise PrefoptError(
                    f"{self.where}: {key}: is not UTF-8 ({value[:SHOWN]!a}); rename or mend it"
                )
            if "\0" in value:
                raise PrefoptError(f"{self.where}: {key}: holds a zero byte ({value[:SHOWN]!a}); take it out")


def _explain(kind: type[Config], error: ValidationError) -> str:
    found = error.errors()
    # of a value that may be of several kinds, each says its own: an unknown key is the one that helps
    unknown = (e for e in found if e["type"] == "extra_forbidden" and e["loc"][:1] == found[0]["loc"][:1])
    first = next(unknown, found[0])
    path = [str(part) for part in first["loc"] if not _is_kind(part)]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}, {nearest(path[-1], _known_keys(kind, path[:-1]))}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = shortened(first["msg"].removeprefix("Value error, "))
    given = (
        f" (given: {shortened(repr(first['input']))})" if not isinstance(first["input"], dict | list) else ""
    )
    return f"{key or kind.__name__}: {message}{given}"


def shortened(text: str) -> str:
    """The text, of a long one its beginning."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _is_kind(part: str | int) -> bool:
    """Whether a part of an error's place is no key, but the kind that was tried (`SourceConfig`, `list[...]`)."""
    return isinstance(part, str) and ("[" in part or part[:1].isupper() or part == "str")


def _known_keys(kind: type[Config], path: Sequence[str]) -> list[str]:
    """Names that are allowed below `path`, followed through nested settings objects."""
    model: Any = kind
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        kinds = _inner_types(field.annotation)
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))


def _inner_types(annotation: Any) -> list[Any]:
    """The annotation and what stands in its brackets, at any depth (`list[Model] | None`)."""
    return [annotation, *(kind for part in get_args(annotation) for kind in _inner_types(part))]


class _StrictLoader(yaml.SafeLoader):
    """A safe loader for which a key that stands twice in one mapping is an error, not a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    problem = f"key {key_node.value!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        PrefoptError: missing file, not UTF-8, bad YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PrefoptError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except OSError as error:
        raise PrefoptError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file"
        ) from None
    try:
        data = yaml.load(text, _StrictLoader)  # a SafeLoader: plain data only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise PrefoptError(f"{path}:{line} {problem}; mend the YAML") from None
    except RecursionError:
        raise PrefoptError(f"{path}: nested too deep; flatten the YAML") from None
    except ValueError as error:  # an impossible date, a number of too many digits
        raise PrefoptError(f"{path}: {error}; put the value in quotes if it is text") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise PrefoptError(f"{path}: holds a {type(data).__name__}, expected 'key: value' lines")
    return data


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top: mappings merge key by key, everything else (lists too) is replaced."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings whose values differ, also those that only one of the two has."""
    found = []
    for key in [*now, *(key for key in before if key not in now)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{key}.{inner}" for inner in changed_keys(old, new)]
        elif old != new:
            found.append(key)
    return found


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--train.beta", "0.05", "--strict=true"]` -> `{"train": {"beta": 0.05}, "strict": True}`.

    Numbers, true, false, null, [lists], {mappings} and "quoted" texts are read as YAML has them, all else is text.
    Dashes in key names read as underscores.

    Raises:
        PrefoptError: a word that is no `--key`, or a key without a value.
    """
    tree: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise PrefoptError(f"unexpected argument {word!r}; options are written '--key value'")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words or (words[0].startswith("--") and len(words[0]) > 2):
                raise PrefoptError(f"option '--{key}' has no value; write '--{key} VALUE'")
            value = words.pop(0)
        _put(tree, key.replace("-", "_").split("."), read_value(value))
    return tree


def read_value(text: str) -> Any:
    """A flag's value: what YAML says where it is plainly a number, truth value, null, [list], {mapping} or "quoted".

    Everything else is the text itself, character by character: YAML would cut `a # b`, read `12:30` as 750 and
    `You are: x` as a mapping.
    """
    bare = text.strip()
    if _NUMBER.fullmatch(bare):
        return float(bare) if set(bare.lower()) & set(".e") else int(bare)
    if bare.lower() in _WORDS:
        return _WORDS[bare.lower()]
    if not bare.startswith(("[", "{", "'", '"')):
        return text
    try:
        return yaml.load(bare, _StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise PrefoptError(f"option '--{'.'.join(path)}' goes below '{part}', which was given a value")
        tree = inner
    tree[path[-1]] = value
