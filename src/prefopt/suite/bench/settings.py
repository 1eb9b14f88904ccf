"""Settings of tuning and bench, and their presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, merge, parse_config
from prefopt.suite.agents.agents import AgentsConfig
from prefopt.suite.data.bank import BankConfig
from prefopt.suite.inner.methods import METHODS
from prefopt.suite.inner.training import InnerConfig

ALL_METHODS = tuple(METHODS)
DEFAULT_VARIANTS = ("base", "noisy:0.2", "mixed:0.5")


class BenchConfig(Config):
    """Everything that decides a table. Tuning reads the same settings and its own seeds and episodes."""

    agents: AgentsConfig = Field(AgentsConfig(), description="environment and agents")
    bank: BankConfig = Field(BankConfig(), description="trajectory bank")
    inner: InnerConfig = Field(InnerConfig(), description="training of each member")
    methods: tuple[str, ...] = Field(ALL_METHODS, min_length=1, description="names of suite.methods")
    variants: tuple[str, ...] = Field(DEFAULT_VARIANTS, min_length=1, description="as suite.data")
    rows: int = Field(5120, ge=2, description="pairs per training")
    seeds: int = Field(5, ge=2, description="trainings per cell, each with its own rows, labels and order")
    episodes: int = Field(30, ge=1, description="evaluation episodes per training")
    mode: str = Field("stochastic", pattern="^(stochastic|deterministic)$", description="of evaluation")
    tuning_variants: tuple[str, ...] = Field(
        DEFAULT_VARIANTS, min_length=1, description="tuned on their mean"
    )
    tuning_seeds: int = Field(1, ge=1, description="trainings per candidate and variant")
    tuning_finalists: int = Field(4, ge=1, description="best candidates that are scored once more")
    tuning_final_seeds: int = Field(2, ge=1, description="fresh seeds on which they are")
    tuning_episodes: int = Field(8, ge=1, description="evaluation episodes per tuning run")


TOY: dict[str, Any] = {
    "agents": {
        "evaluation_episodes": 4,
        "ppo": {"steps": 3072, "environments": 8, "horizon": 32, "epochs": 4, "minibatches": 4, "hidden": 16,
                "checkpoint_every": 3},
    },
    "bank": {"starts": 24, "references": 2},
    "inner": {"updates": 20, "pairs": 8, "steps_drawn": 8},
    "methods": ["dpo", "dpo_budget", "dpo_select_40"],
    "variants": ["base", "noisy:0.25"],
    "rows": 16, "seeds": 2, "episodes": 4, "tuning_variants": ["base"], "tuning_finalists": 2,
    "tuning_final_seeds": 1, "tuning_episodes": 2,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "toy": TOY,
    "small": {"bank": {"starts": 640}, "rows": 512},
    "paper": {
        "inner": {"updates": 1600, "pairs": 32, "steps_drawn": 100},
        "variants": ["base", "noisy:0.1", "noisy:0.2", "noisy:0.3", "poor_judge:1000", "mixed:0.25", "mixed:0.5",
                     "mixed:0.75", "shuffled", "small:128", "small:512"],
        "seeds": 10, "episodes": 100, "tuning_seeds": 2, "tuning_episodes": 30,
    },
}  # fmt: skip


ENVIRONMENTS_OF = {"paper": ("hopper", "ant", "three_legged_ant")}  # presets that run more than one
ANT_STEPS = 4_000_000  # an Ant learns slower than a Hopper: a return of 2500 after about 2 M steps
ANT_ROWS = 1280  # of arXiv 2411.06568's data sets


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
    return agents if preset == "small" else {**agents, "bank": {"starts": ANT_ROWS}, "rows": ANT_ROWS}
