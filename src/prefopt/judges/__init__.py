"""Pairwise judges say which of two completions is better. One protocol, one file per judge, imported when asked for.

A judge answers single calls: this prompt, this first answer, this second one. Asking in both orders, the cache, the
budget and what follows from two calls are the comparer's (`prefopt.comparing`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import add_part, check_options, digests, keywords_of, origin_of
from prefopt.core.settings import Config, OneOf
from prefopt.engines.server_settings import ServerSettings
from prefopt.judges.added import KIND, AddedJudge
from prefopt.judges.parse import parse_verdict
from prefopt.judges.verdicts import TIE_BAND, Comparison, PairwiseJudge, Verdict, Winner, winner_of
from prefopt.tables.records import file_digest
from prefopt.verify import VerifyConfig, verifier_digests

if TYPE_CHECKING:
    from prefopt.tables.context import Context

Made = TypeVar("Made", bound=Callable[..., Any])

# name -> (module, what to install when its import fails); of a plug-in: the function or class itself
JUDGES: dict[str, tuple[str, str] | Callable[..., Any]] = {
    "server": ("prefopt.judges.server", "pip install 'prefopt[server]'"),
    "local": ("prefopt.judges.local", "pip install prefopt"),
    "reward_model": ("prefopt.judges.reward_model", "pip install prefopt"),
    "pairwise_model": ("prefopt.judges.pairwise_model", "pip install prefopt"),
    "verifier": ("prefopt.judges.verifier", "pip install prefopt"),
    "recorded": ("prefopt.judges.recorded", "pip install prefopt"),
    "simulated": ("prefopt.judges.simulated", "pip install prefopt"),
}


class SimulatedSettings(Config):
    """The simulated judge: P(first wins) = sigmoid(slope (q_first - q_second) + first_bias)."""

    column: str = Field(
        "quality",
        description="column of the completions with their true quality; quality: drawn from N(0, 1) where there is none",
    )
    slope: float = Field(1.5, ge=0, description="how sharply quality decides; per unit of quality")
    first_bias: float = Field(1.0, description="position bias: logits in favour of the first answer")
    tie_rate: float = Field(0.0, ge=0, le=1, description="share of calls answered by a tie")


class PairwiseJudgeConfig(Config):
    """Settings of the pairwise judge."""

    kind: Annotated[str, OneOf(lambda: JUDGES)] = Field(description=f"what compares: {', '.join(JUDGES)}")
    name: str | None = Field(None, description="recorded: which judge of the file, or majority (of votes)")
    complete: Literal["none", "hub"] = Field(
        "none", description="recorded: hub compares two answers by their verdicts against a common third one"
    )
    model: str | None = Field(
        None, description="local, reward_model, pairwise_model: model directory or hub name"
    )
    server: ServerSettings | None = Field(
        None, description="server: {base_url, model, ...} of an OpenAI-compatible endpoint"
    )
    prompt: Path | None = Field(None, description="server, local: file with a judge prompt of your own")
    rubric: str = Field("", description="server, local: what a good answer is, in your words")
    use_reference: bool = Field(
        True, description="server, local: show the judge the reference answer, if there is one"
    )
    tie_band: float = Field(
        TIE_BAND, ge=0, lt=0.5, description="a tie where the probability is closer to 0.5 than this"
    )
    batch_size: int = Field(16, ge=1, description="texts of one forward pass of a local model")
    max_length: int | None = Field(
        None, ge=16, description="longest text of a local model, tokens; null: the model's own limit"
    )
    max_new_tokens: int = Field(1024, ge=1, description="server: longest answer of the judge, tokens")
    top_logprobs: int = Field(
        5,
        ge=0,
        le=20,
        description="server: likeliest tokens asked for, for soft verdicts; 0 where it refuses",
    )
    verifier: VerifyConfig = Field(VerifyConfig(), description="verifier: how final answers are found")  # type: ignore[call-arg]
    simulated: SimulatedSettings = Field(
        SimulatedSettings(),  # type: ignore[call-arg]
        description="the simulated judge, for studies and tests",
    )
    options: dict[str, Any] = Field({}, description="options of a plug-in's judge")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        if name not in JUDGES:
            raise ValueError(f"unknown judge, {nearest(name, JUDGES)} (plugins add others)")
        return name

    @model_validator(mode="after")
    def _known_options(self) -> PairwiseJudgeConfig:
        maker = JUDGES[self.kind]
        known = keywords_of(maker) if callable(maker) else {}
        try:
            check_options(f"judge {self.kind!r}", self.options, known)
        except PrefoptError as error:
            raise ValueError(str(error)) from None
        return self


def register_judge(name: str) -> Callable[[Made], Made]:
    """Decorator: a function of one `Comparison`, or a class with `compare(batch, seed)`, is a pairwise judge (`prefopt.judges.added`).

    Its keyword-only parameters are its options: `rank.judge: {kind: NAME, options: {...}}`.

    Raises:
        PrefoptError: the name is taken, or a class without `compare`.
    """

    def register(made: Made) -> Made:
        if not callable(made) or (isinstance(made, type) and not callable(getattr(made, "compare", None))):
            raise PrefoptError(
                f"{origin_of(made)}: judge {name!r}: decorate a function of one call, or a class with compare(batch, seed)"
            )
        add_part(KIND, name, made, made, JUDGES)
        return made

    return register


def open_judge(config: PairwiseJudgeConfig, context: Context) -> PairwiseJudge:
    """The judge that `config` asks for.

    Raises:
        PrefoptError: a missing package (with the install line), or settings it cannot work with.
    """
    maker = JUDGES[config.kind]
    if callable(maker):
        return AddedJudge(config.kind, maker, config.options, config.tie_band)
    module, install = maker
    try:
        judge: PairwiseJudge = importlib.import_module(module).open_judge(config, context)
    except ModuleNotFoundError as error:
        raise PrefoptError(f"judge {config.kind!r} needs the package {error.name!r}; {install}") from None
    return judge


def judge_files(config: PairwiseJudgeConfig) -> list[str]:
    """Digests of the model, the prompt file and the plug-in that the settings name.

    Raises:
        PrefoptError: one of them cannot be found or read.
    """
    found = [*digests(KIND, [config.kind]), *verifier_digests(config.verifier)]
    if config.model is not None:
        from prefopt.models.find import resolve_model
        from prefopt.models.load import model_digest

        found.append(model_digest(resolve_model(config.model)))
    if config.prompt is not None:
        if not config.prompt.is_file():
            raise PrefoptError(f"judge.prompt: {config.prompt}: no such file; give a judge prompt")
        found.append(file_digest(config.prompt))
    return found


__all__ = [
    "JUDGES",
    "TIE_BAND",
    "Comparison",
    "PairwiseJudge",
    "PairwiseJudgeConfig",
    "SimulatedSettings",
    "Verdict",
    "Winner",
    "judge_files",
    "open_judge",
    "parse_verdict",
    "register_judge",
    "winner_of",
]
