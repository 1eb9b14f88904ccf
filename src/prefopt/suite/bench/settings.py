"""Settings of tuning and bench, and their presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, merge, parse_config
from prefopt.suite.agents.agents import AgentsConfig
from prefopt.suite.agents.lineages import roles
from prefopt.suite.data.bank import BankConfig
from prefopt.suite.inner.methods import LOSSES, METHODS
from prefopt.suite.inner.training import InnerConfig

ALL_METHODS = tuple(METHODS)
DEFAULT_VARIANTS = ("base", "noisy:0.2", "mixed:0.5")


class BenchConfig(Config):
    """Everything that decides a table. Tuning and search read the same settings and lineages of their own.

    agents.seed and bank.seed are those of a lineage: agents and start states of every lineage are its own.
    """

    agents: AgentsConfig = Field(AgentsConfig(), description="environment and agents")
    bank: BankConfig = Field(BankConfig(), description="trajectory bank of each lineage")
    inner: InnerConfig = Field(InnerConfig(snapshots=10), description="training of each member")
    methods: tuple[str, ...] = Field(ALL_METHODS, min_length=1, description="names of suite.inner.methods")
    variants: tuple[str, ...] = Field(DEFAULT_VARIANTS, min_length=1, description="as suite.data.variants")
    rows: int = Field(
        5120, ge=2, description="pairs per training; the bank's other start states are held out"
    )
    lineages: tuple[int, ...] = Field(
        (), description="seeds of the agents behind the table; empty: the reporting ones"
    )
    seeds: int = Field(
        1, ge=1, description="trainings per cell and lineage, each with its own rows, labels and order"
    )
    episodes: int = Field(100, ge=1, description="evaluation episodes of the policy of tuned length")
    other_episodes: int = Field(
        20, ge=1, description="of the policies of full length and of early stopping, where others"
    )
    mode: str = Field("stochastic", pattern="^(stochastic|deterministic)$", description="of evaluation")
    tuning_lineages: tuple[int, ...] = Field(
        (), description="seeds of the agents of tuning; empty: the tuning ones"
    )
    tuning_variants: tuple[str, ...] = Field(
        DEFAULT_VARIANTS, min_length=1, description="tuned on their mean"
    )
    tuning_candidates: int = Field(
        12, ge=1, description="points of a method's grid that are tried, drawn by a fixed rule"
    )
    tuning_finalists: int = Field(
        3, ge=1, description="best candidates of the first tuning lineage, tried on the others"
    )
    tuning_episodes: int = Field(2, ge=1, description="episodes per snapshot, candidate, variant and lineage")

    @model_validator(mode="after")
    def _apart(self) -> BenchConfig:
        both = set(self.reporting()) & set(self.tuning())
        if both:
            raise ValueError(
                f"lineages {sorted(both)} are reported and tuned on; a lineage serves one purpose"
            )
        return self

    def reporting(self) -> tuple[int, ...]:
        """The lineages behind the table."""
        return self.lineages or roles(self.agents.environment).reporting

    def tuning(self) -> tuple[int, ...]:
        """The lineages of tuning."""
        return self.tuning_lineages or roles(self.agents.environment).tuning

    def of_lineage(self, seed: int) -> BenchConfig:
        """These settings with the agents and start states of a lineage."""
        agents = self.agents.model_copy(update={"seed": seed})
        return self.model_copy(update={"agents": agents, "bank": self.bank.model_copy(update={"seed": seed})})


TOY: dict[str, Any] = {
    "agents": {
        "evaluation_episodes": 4,
        "ppo": {"steps": 3072, "environments": 8, "horizon": 32, "epochs": 4, "minibatches": 4, "hidden": 16,
                "checkpoint_every": 3},
    },
    "bank": {"starts": 24, "references": 2},
    "inner": {"updates": 20, "pairs": 8, "steps_drawn": 8, "snapshots": 2},
    "methods": ["dpo", "dpo_select_40"],
    "variants": ["base", "noisy:0.25"],
    "rows": 16, "lineages": [0, 1], "episodes": 4, "other_episodes": 3, "tuning_lineages": [2, 3],
    "tuning_variants": ["base"], "tuning_candidates": 3, "tuning_finalists": 2, "tuning_episodes": 1,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "toy": TOY,
    "small": {
        "bank": {"starts": 288, "references": 3}, "rows": 256, "methods": LOSSES, "tuning_candidates": 9, "tuning_finalists": 2,
        "tuning_episodes": 1,
    },
    "paper": {
        "inner": {"updates": 1600, "pairs": 32, "steps_drawn": 100}, "bank": {"starts": 5632},
        "variants": ["base", "noisy:0.1", "noisy:0.2", "noisy:0.3", "poor_judge:1000", "mixed:0.25", "mixed:0.5",
                     "mixed:0.75", "shuffled", "small:128", "small:512"],
        "other_episodes": 100, "tuning_candidates": 25, "tuning_episodes": 10,
    },
}  # fmt: skip


ENVIRONMENTS_OF = {"paper": ("hopper", "ant", "three_legged_ant")}  # presets that run more than one
ANT_STEPS = 4_000_000  # an Ant learns slower than a Hopper: a return of 2500 after about 2 M steps
ANT_ROWS = 1280  # of arXiv 2411.06568's data sets
ANT_STARTS = 1408  # a tenth more, held out


def bench_config(preset: str, overrides: Mapping[str, Any]) -> BenchConfig:
    """The preset with overrides on top, for one environment. Raises PrefoptError for an unknown preset or key."""
    if preset not in PRESETS:
        raise PrefoptError(f"unknown preset {preset!r}, {nearest(preset, PRESETS)}")
    name = overrides.get("agents", {}).get("environment", "hopper")
    settings = merge(PRESETS[preset], _of_environment(preset, name))
    return parse_config(BenchConfig, merge(settings, overrides), f"prefopt suite --preset {preset}")


def bench_configs(preset: str, overrides: Mapping[str, Any]) -> list[BenchConfig]:
    """`bench_config` for every environment of the preset, or for the one that the overrides name."""
    if "environment" in overrides.get("agents", {}):
        return [bench_config(preset, overrides)]
    names = ENVIRONMENTS_OF.get(preset, ("hopper",))
    return [bench_config(preset, merge(overrides, {"agents": {"environment": name}})) for name in names]


def _of_environment(preset: str, name: str) -> dict[str, Any]:
    if "ant" not in name or preset == "toy":
        return {}
    agents = {"agents": {"ppo": {"steps": ANT_STEPS}}}
    return agents if preset == "small" else {**agents, "bank": {"starts": ANT_STARTS}, "rows": ANT_ROWS}
