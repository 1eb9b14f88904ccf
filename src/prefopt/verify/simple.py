"""Verifiers of a line of settings: a regular expression, a JSON schema, a length."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from prefopt.core.errors import PrefoptError
from prefopt.verify.constraints.texts import sentences
from prefopt.verify.score import Score

_FENCE = re.compile(r"```[A-Za-z]*\s*\n(.*?)\n\s*```", re.DOTALL)


def regex(
    prompt: Any,
    completion: str,
    row: Mapping[str, Any],
    *,
    pattern: str,
    match: Literal["search", "full"] = "search",
    ignore_case: bool = False,
    wanted: bool = True,
) -> bool:
    """A regular expression is found in the completion (match full: is all of it); wanted false: is not"""
    found = _compiled(pattern, ignore_case)
    place = found.search(completion) if match == "search" else found.fullmatch(completion.strip())
    return (place is not None) == wanted


def check_regex(*, pattern: str, **options: Any) -> None:
    """Raise `PrefoptError` unless the pattern is a regular expression."""
    _compiled(pattern, False)


@lru_cache(maxsize=256)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except (re.error, TypeError) as error:
        raise PrefoptError(f"verifier 'regex': pattern {pattern!r:.60}: {error}") from None


def length(
    prompt: Any,
    completion: str,
    row: Mapping[str, Any],
    *,
    min_words: int | None = None,
    max_words: int | None = None,
    min_characters: int | None = None,
    max_characters: int | None = None,
    min_sentences: int | None = None,
    max_sentences: int | None = None,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
) -> bool | None:
    """Words (at blanks), characters, sentences, tokens within bounds, both included; no verdict where tokens are unknown"""
    counts: dict[str, tuple[int | None, int | None, Callable[[], int | None]]] = {
        "words": (min_words, max_words, lambda: len(completion.split())),
        "characters": (min_characters, max_characters, lambda: len(completion)),
        "sentences": (min_sentences, max_sentences, lambda: len(sentences(completion))),
        "tokens": (min_tokens, max_tokens, lambda: row.get("completion_tokens")),
    }
    holds = True
    for low, high, count in counts.values():
        if low is None and high is None:
            continue
        found = count()
        if found is None:
            return None
        holds = holds and (low is None or found >= low) and (high is None or found <= high)
    return holds


def check_length(**bounds: int | None) -> None:
    """Raise `PrefoptError` unless there is a bound, and none is below the other one."""
    if all(bound is None for bound in bounds.values()):
        raise PrefoptError("verifier 'length': no bound; give one, e.g. max_words: 12")
    for name, low in bounds.items():
        high = bounds.get(name.replace("min_", "max_"))
        if name.startswith("min_") and low is not None and high is not None and low > high:
            raise PrefoptError(
                f"verifier 'length': {name} {low} is above {name.replace('min_', 'max_')} {high}"
            )


def json_schema(
    prompt: Any,
    completion: str,
    row: Mapping[str, Any],
    *,
    schema: dict[str, Any] | str | None = None,
    column: str = "schema",
) -> Score:
    """The completion, or the one fenced block in it, is JSON that fits the schema (an object, a file, or the row's column)"""
    wanted = schema if schema is not None else row.get(column)
    if wanted is None:
        return Score()
    validator = _validator(_schema_text(wanted))
    fenced = _FENCE.findall(completion)
    try:
        value = json.loads(fenced[0] if len(fenced) == 1 else completion.strip())
    except (ValueError, RecursionError):
        return Score(False)
    return Score(bool(validator.is_valid(value)), None, json.dumps(value, sort_keys=True))


def _schema_text(wanted: Any) -> str:
    """A schema as text: of an object, of a column's text, of the file that a setting names."""
    if not isinstance(wanted, str):
        return json.dumps(wanted)
    if wanted.lstrip().startswith("{"):
        return wanted
    try:
        return Path(wanted).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise PrefoptError(
            f"verifier 'json_schema': {wanted:.80}: cannot be read; give a schema or the path of one"
        ) from None


def schema_digest(wanted: Any) -> list[str]:
    """SHA-256 (hex) of a schema that stands in a file of its own; of others nothing."""
    is_file = isinstance(wanted, str) and not wanted.lstrip().startswith("{")
    return [hashlib.sha256(_schema_text(wanted).encode()).hexdigest()] if is_file else []


@lru_cache(maxsize=1024)
def _validator(text: str) -> Any:
    try:
        import jsonschema
        from jsonschema_specifications import REGISTRY
    except ModuleNotFoundError:
        raise PrefoptError(
            "verifier 'json_schema' needs the package jsonschema; pip install 'prefopt[checks]'"
        ) from None
    try:
        schema = json.loads(text)
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except ValueError as error:
        raise PrefoptError(f"verifier 'json_schema': the schema is no JSON ({error})") from None
    except jsonschema.SchemaError as error:
        raise PrefoptError(f"verifier 'json_schema': not a JSON schema: {error.message:.120}") from None
    return kind(schema, registry=REGISTRY)  # never asks the network
