"""Pairwise judges say which of two completions is better. One protocol, one file per judge, imported when asked for.

A judge answers single calls: this prompt, this first answer, this second one. Asking in both orders, the cache, the
budget and what follows from two calls are the comparer's (`prefopt.comparing`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field, field_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, OneOf
from prefopt.engines.client import ServerSettings
from prefopt.tables.records import file_digest
from prefopt.verify import VerifyConfig

if TYPE_CHECKING:
    from prefopt.tables.context import Context
    from prefopt.tables.records import Row

# name -> (module, what to install when its import fails)
JUDGES: dict[str, tuple[str, str]] = {
    "server": ("prefopt.judges.server", "pip install 'prefopt[server]'"),
    "local": ("prefopt.judges.local", "pip install prefopt"),
    "reward_model": ("prefopt.judges.reward_model", "pip install prefopt"),
    "pairwise_model": ("prefopt.judges.pairwise_model", "pip install prefopt"),
    "verifier": ("prefopt.judges.verifier", "pip install prefopt"),
    "recorded": ("prefopt.judges.recorded", "pip install prefopt"),
    "simulated": ("prefopt.judges.simulated", "pip install prefopt"),
}
# missing: the judge has no verdict on that pair (recorded files have gaps); unparsed: it answered, but no verdict was
# found in the answer. Neither is a tie.
Winner = Literal["first", "second", "tie", "missing", "unparsed"]
TIE_BAND = 0.05


@dataclass(frozen=True)
class Comparison:
    """One judge call. first, second: rows of completions (`id`, `completion`, `gold`, `score`, ... as they are)."""

    prompt_id: str
    prompt: str | list[dict[str, Any]]
    first: Row
    second: Row
    reference: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the judge said. probability: P(first is better) of this call, None where the judge gives none.

    calls: how often the judge was asked for it (2 where an answer without a verdict was asked for again by the judge
    itself); tokens and latency are of all of them. latency_s (seconds) differs between equal runs and never enters a table of results.
    """

    winner: Winner
    probability: float | None = None
    text: str = ""
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    calls: int = 1


class PairwiseJudge(Protocol):
    """What compares.

    both_orders: each pair is to be asked in both orders; False where the order is known not to matter.
    averages: the verdict on a pair is by the mean probability of its two calls and the tie band (a model read at the
    verdict token); else both calls must name the same answer.
    cacheable: verdicts may be kept by content and used again.
    A judge may also have `keeps_answers` (True): it stores each answer as it arrives and itself asks again where an
    answer has no verdict, so that it is best given many calls at once.
    """

    name: str
    both_orders: bool
    averages: bool
    cacheable: bool

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """One verdict per call, in order. Global random state stays as it was."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the verdicts depend on (JSON, without secrets): for the manifest and the key of the cache."""
        ...


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

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        if name not in JUDGES:
            raise ValueError(f"unknown judge, {nearest(name, JUDGES)}")
        return name


def open_judge(config: PairwiseJudgeConfig, context: Context) -> PairwiseJudge:
    """The judge that `config` asks for.

    Raises:
        PrefoptError: a missing package (with the install line), or settings it cannot work with.
    """
    module, install = JUDGES[config.kind]
    try:
        judge: PairwiseJudge = importlib.import_module(module).open_judge(config, context)
    except ModuleNotFoundError as error:
        raise PrefoptError(f"judge {config.kind!r} needs the package {error.name!r}; {install}") from None
    return judge


def judge_files(config: PairwiseJudgeConfig) -> list[str]:
    """Digests of the model and the prompt file that the settings name.

    Raises:
        PrefoptError: one of them cannot be found or read.
    """
    found = []
    if config.model is not None:
        from prefopt.models.find import resolve_model
        from prefopt.models.load import model_digest

        found.append(model_digest(resolve_model(config.model)))
    if config.prompt is not None:
        if not config.prompt.is_file():
            raise PrefoptError(f"judge.prompt: {config.prompt}: no such file; give a judge prompt")
        found.append(file_digest(config.prompt))
    return found


def winner_of(probability: float, tie_band: float = TIE_BAND) -> Winner:
    """The winner at P(first is better): a tie where |P - 0.5| < tie_band, and at 0.5 itself."""
    distance = probability - 0.5
    if distance == 0 or abs(distance) < tie_band:
        return "tie"
    return "first" if distance > 0 else "second"
