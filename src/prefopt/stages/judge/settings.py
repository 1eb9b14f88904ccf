"""Settings of 02-judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from prefopt.core.settings import Config
from prefopt.verify import VERIFIERS, VerifyConfig

if TYPE_CHECKING:
    pass


class JudgeConfig(Config):
    """Settings of the judge of single completions."""

    kind: Literal["auto", "verifier", "recorded", "reward_model"] = Field(
        "auto",
        description="verifier: against gold answers; recorded: verdicts in the file; auto: gold answers where there are "
        "any; reward_model: `score` is the reward of judge.model; or the name of a verifier, with its `options`",
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
        """`{kind: NAME, options: {...}}` of a verifier is short for `{kind: verifier, verifier: {kind: NAME, ...}}`."""
        if not isinstance(given, dict) or given.get("kind") not in VERIFIERS:
            return given
        rest = {key: value for key, value in given.items() if key not in ("kind", "options")}
        named = {"kind": given["kind"], "options": given.get("options") or {}}
        return {**rest, "kind": "verifier", "verifier": {**dict(rest.get("verifier") or {}), **named}}
