"""Verifiers by name: functions of one completion that say whether it is right, or how good it is.

    @prefopt.register_verifier("short")
    def short(prompt, completion, row, *, words=20):
        return len(completion.split()) <= words

`row` is the completion's row with all columns of the data, the gold answer among them. True and False are verdicts, a
number is a score without a verdict, None is no opinion; a `Score` says both. A new verifier of ours is one function and
one row of `VERIFIERS`. Three kinds are no such function: `answer`, the comparison of final answers (`equality.py`),
`function`, a check in a file of the user's (`function.py`), and `sum`, several verifiers with weights (`scoring.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, check_options, keywords_of, origin_of
from prefopt.verify.constraints.check import constraints
from prefopt.verify.simple import check_length, check_regex, json_schema, length, regex

Function = TypeVar("Function", bound=Callable[..., Any])
ANSWER = "answer"  # final answers against gold answers
MATH = "math"  # another word for it
FUNCTION = "function"
SUM = "sum"
OWN = (ANSWER, MATH, FUNCTION, SUM)  # kinds that are no row of the table
CODE = (
    "verifier 'code' is not offered: code that a model wrote is run in a sandbox or not at all, and this package has none; "
    "call your own sandbox from a check (kind function)"
)


@dataclass(frozen=True)
class Verifier:
    """`check(prompt, completion, row, **options)` gives True, False, None, a number or a `Score`."""

    check: Callable[..., Any]
    about: str = ""
    is_ours: bool = False


def _row(check: Callable[..., Any]) -> Verifier:
    return Verifier(check, (check.__doc__ or "").partition("\n")[0], is_ours=True)


VERIFIERS: dict[str, Verifier] = {
    "constraints": _row(constraints),
    "regex": _row(regex),
    "json_schema": _row(json_schema),
    "length": _row(length),
}
CHECKS: dict[str, Callable[..., None]] = {"regex": check_regex, "length": check_length}


def options_of(kind: str) -> dict[str, Any]:
    """Options of a verifier by name with their defaults; of other kinds none."""
    return keywords_of(VERIFIERS[kind].check) if kind in VERIFIERS else {}


class Chosen(Protocol):
    """The settings that say which verifier (`VerifyConfig` has them)."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options."""


def register_verifier(name: str, about: str = "") -> Callable[[Function], Function]:
    """Decorator: the function is a verifier under `name`; its keyword-only parameters are its options.

    Raises:
        PrefoptError: the name is taken, or the function takes other arguments.
    """

    def register(check: Function) -> Function:
        if not callable(check):
            raise PrefoptError(f"{origin_of(check)}: verifier {name!r}: decorate a function")
        add_part(
            KIND, name, check, Verifier(check, about or (check.__doc__ or "").partition("\n")[0]), VERIFIERS
        )
        return check

    if name in OWN:
        raise PrefoptError(f"verifier {name!r} is built in; choose another name")
    return register


KIND = "verifier"


def check_verifier(config: Chosen) -> None:
    """Raise ValueError unless the verifier is known and has the options."""
    if config.kind == "code" and "code" not in VERIFIERS:
        raise ValueError(CODE)
    if config.kind not in (*OWN, *VERIFIERS):
        raise ValueError(
            f"unknown verifier {config.kind!r}, {nearest(config.kind, (*OWN, *VERIFIERS))} (plugins add others)"
        )
    try:
        check_options(f"verifier {config.kind!r}", config.options, options_of(config.kind))
        if config.kind in VERIFIERS and VERIFIERS[config.kind].is_ours:
            _check_ours(config)
    except PrefoptError as error:
        raise ValueError(str(error)) from None


def _check_ours(config: Chosen) -> None:
    """Options of our own verifiers have types, and some have to fit together."""
    hints = get_type_hints(VERIFIERS[config.kind].check)
    for name, value in config.options.items():
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise PrefoptError(
                f"verifier {config.kind!r}: {name} is {value!r:.60}: {error.errors()[0]['msg']}"
            ) from None
    if config.kind in CHECKS:
        CHECKS[config.kind](**config.options)
