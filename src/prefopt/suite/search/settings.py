"""Settings of a search."""

from __future__ import annotations

from pydantic import Field, field_validator

from prefopt.core.settings import Config
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.data.variants import parse_variant

NOT_OF = {  # fields that another method of searching reads, or that only say when to stop
    "evolution": {"method", "candidates", "keep", "finalists", "generations", "retest_episodes"},
    "halving": {"population", "generations", "sigma", "rate"},
}


class SearchConfig(Config):
    """What decides a search besides the settings of data and training (BenchConfig)."""

    variants: tuple[str, ...] = Field(
        ("noisy:0.3",), min_length=1, description="data variants; fitness is their mean"
    )
    start: str = Field(
        "orpo", pattern="^(orpo|orpo_reference)$", description="the baseline that generation 0 equals"
    )
    method: str = Field(
        "evolution", pattern="^(evolution|halving)$", description="evolution, or random search with halving"
    )
    temporal: bool = Field(False, description="coefficients and units may depend on the time of training")
    units: int = Field(21, ge=1, description="units of each of the six kinds in phi_inv and psi (small: 4)")
    population: int = Field(64, ge=2, description="members per generation, in antithetic pairs")
    generations: int = Field(100, ge=1, description="updates of the search")
    sigma: float = Field(0.05, gt=0, description="standard deviation of the members around the centre")
    rate: float = Field(0.01, gt=0, description="Adam's rate of the centre")
    episodes: int = Field(8, ge=1, description="evaluation episodes per member")
    retest_episodes: int = Field(30, ge=1, description="episodes per policy of the final re-test")
    candidates: int = Field(256, ge=1, description="random losses of the first rung (halving)")
    keep: float = Field(
        0.4, gt=0, lt=1, description="share of a rung that goes on to the next lineage (halving)"
    )
    finalists: int = Field(12, ge=1, description="losses that meet all lineages with fresh rows (halving)")
    lineages: tuple[int, ...] = Field((), description="seeds of the agents; empty: those kept for searches")
    seed: int = Field(0, ge=0, description="of the search")

    @field_validator("population")
    @classmethod
    def _pairs(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"population must be even (antithetic pairs), not {value}")
        return value

    @field_validator("variants")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_variant(text)
        return value


class DiscoverConfig(BenchConfig):
    """All settings of `prefopt suite discover`: those of data and training, and the search's own."""

    search: SearchConfig = Field(SearchConfig(), description="the search")
