"""How completions are verified: settings of the stages judge and evaluate, and of the judge `verifier`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from prefopt.core.settings import Config
from prefopt.verify.verifiers import ANSWER, FUNCTION, MATH, SUM, VERIFIERS, check_verifier, options_of


class VerifyConfig(Config):
    """How completions are verified: by their final answers, found and compared, or by a verifier of another kind."""

    kind: str = Field(
        ANSWER,
        description="answer (also: math): final answers against gold ones; constraints, regex, json_schema, length; "
        "function: a check of your own (path, name); sum: several of them (parts); or a verifier of a plug-in",
    )
    options: dict[str, Any] = Field({}, description="options of a verifier of another kind")
    extract: Literal["auto", "number", "choice", "text"] = Field(
        "auto",
        description="final answer: auto (boxed, ####, 'answer is', 'A:'), number, choice (a letter), text (all of it)",
    )
    pattern: str | None = Field(
        None,
        description="regular expression for the answer instead: its last match, group 'answer' or 1 or all of it",
    )
    last_number: bool = Field(
        False, description="without a marked answer take the last number of the completion"
    )
    timeout_s: float = Field(
        5.0,
        gt=0,
        description="seconds that a symbolic comparison may take (then it counts as different), or a check of one "
        "completion (then the row is dropped and counted)",
    )
    path: str | None = Field(None, description="function: the Python file that holds the check")
    name: str = Field("check", description="function: its name in the file")
    batch: bool = Field(False, description="function: it takes lists of prompts, completions and rows")
    parts: list[Part] = Field([], description="sum: verifiers with a weight each")
    correct_at: float | None = Field(
        None, description="sum: right from this sum on; null: where every part with a verdict says right"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        """Options of a named verifier may stand beside `kind`; `math` is another word for `answer`."""
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", ANSWER)
        if kind == MATH:
            return {**given, "kind": ANSWER}
        if kind not in VERIFIERS:
            return given
        own = {key for key in given if key in options_of(kind) or key not in cls.model_fields}
        rest = {key: value for key, value in given.items() if key not in own}
        if "options" in given and isinstance(
            given["options"], dict
        ):  # settings as they were stored: fields are no options
            own = {key for key in own if key not in cls.model_fields}
        options = {key: given[key] for key in given if key in own}
        return {**rest, "options": {**options, **(given.get("options") or {})}} if options else rest

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _known_kind(self) -> VerifyConfig:
        check_verifier(self)
        if (self.kind == FUNCTION) != (self.path is not None):
            raise ValueError(
                "kind function needs path, the Python file of the check"
                if self.kind == FUNCTION
                else f"path is for kind function, the kind is {self.kind!r}"
            )
        if (self.kind == SUM) != bool(self.parts):
            raise ValueError(
                "kind sum needs parts, a list of {kind, weight, ...}"
                if self.kind == SUM
                else f"parts are for kind sum, the kind is {self.kind!r}"
            )
        if any(part.kind == SUM for part in self.parts):
            raise ValueError("a part of a sum is no sum; put its parts beside the others")
        return self


class Part(VerifyConfig):
    """One verifier of a sum."""

    weight: float = Field(1.0, description="its score times this is added")


VerifyConfig.model_rebuild()
DEFAULT = VerifyConfig()  # type: ignore[call-arg]
