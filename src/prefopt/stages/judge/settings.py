"""Settings of 02-judge."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from prefopt.core.errors import nearest
from prefopt.core.settings import Config
from prefopt.verify import VERIFIERS, VerifyConfig
from prefopt.verify.verifiers import CODE, OWN

Kind = Literal["auto", "verifier", "recorded", "reward_model"]
KINDS = get_args(Kind)


class JudgeConfig(Config):
    """Settings of the judge of single completions."""

    kind: Kind = Field(
        "auto",
        description="verifier: against gold answers; recorded: verdicts in the file; auto: gold answers or constraints "
        "where there are any; reward_model: `score` is the reward of judge.model; or the name of a verifier (function, "
        "constraints, regex, json_schema, length, sum, math), with its settings beside it",
    )
    model: str | None = Field(
        None, description="reward_model: directory or hub name of a scalar reward model"
    )
    batch_size: int = Field(16, ge=1, description="reward_model: texts of one forward pass")
    max_length: int | None = Field(
        None, ge=16, description="reward_model: longest text, tokens; null: the model's own limit"
    )
    verifier: VerifyConfig = Field(VerifyConfig(), description="how final answers are found and compared")  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _verifier_by_name(cls, given: Any) -> Any:
        """`{kind: NAME, ...}` of a verifier is short for `{kind: verifier, verifier: {kind: NAME, ...}}`."""
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", "auto")
        if kind in KINDS or not isinstance(kind, str):
            return given
        if kind not in (*OWN, *VERIFIERS):
            names = (*KINDS, *OWN, *VERIFIERS)
            raise ValueError(CODE if kind == "code" else f"unknown kind {kind!r}, {nearest(kind, names)}")
        rest = {key: value for key, value in given.items() if key != "kind" and key in cls.model_fields}
        own = {key: value for key, value in given.items() if key != "kind" and key not in cls.model_fields}
        named = {**dict(rest.get("verifier") or {}), **own, "kind": kind}
        return {**rest, "kind": "verifier", "verifier": named}
