"""Settings of `prefopt check`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from prefopt.core.errors import nearest
from prefopt.core.settings import Config
from prefopt.tools.check.findings import FINDINGS

SAFE = ("unusable", "empty", "identical", "duplicates")


class CheckConfig(Config):
    """Settings of the check."""

    kind: Literal["auto", "prompts", "completions", "pairs", "unpaired"] = Field(
        "auto", description="what the file holds: auto, prompts, completions, pairs or unpaired"
    )
    split: str | None = Field(None, description="split of a hub data set, or key of a JSON object of arrays")
    columns: dict[str, str] = Field({}, description="your column names to ours, e.g. {question: prompt}")
    threshold: float = Field(
        0.8, ge=0.3, le=1, description="near-duplicate from this Jaccard similarity of word runs on"
    )
    ngram: int = Field(3, ge=1, description="words of a run, for near-duplicates")
    containment: float = Field(
        0.5, gt=0, le=1, description="share of a test prompt's word runs that makes a row contaminated"
    )
    containment_ngram: int = Field(8, ge=1, description="words of a run, for contamination")
    longest: int = Field(32000, ge=1, description="characters of prompt and answer from which a row is long")
    examples: int = Field(5, ge=0, description="example rows kept per finding")
    remove: list[str] = Field(
        list(SAFE), description="findings whose rows the cleaned copy leaves out, e.g. [duplicates, empty]"
    )

    @field_validator("remove")
    @classmethod
    def _removable(cls, names: list[str]) -> list[str]:
        known = [name for name, finding in FINDINGS.items() if finding.removable]
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} cannot be removed; {nearest(name, known)}")
        return names
