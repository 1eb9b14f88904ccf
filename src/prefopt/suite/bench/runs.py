"""What tuning, bench and single trainings share: agents, bank and simulators made once, a member made from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefopt.suite.agents.agents import Agents, agents, make_simulator
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.data.bank import Bank, bank
from prefopt.suite.data.variants import make_pairs, parse_variant
from prefopt.suite.inner.methods import Method, prepare
from prefopt.suite.inner.training import Member, Trained, train_population
from prefopt.suite.simulator.episodes import evaluate
from prefopt.suite.simulator.policy import Params

TUNING_SEED = 500_000  # rows, labels and orders of tuning; the bench's seeds are 0, 1, ...
EVALUATION_SEED = 700_000


@dataclass(frozen=True)
class Material:
    """Agents and bank of some settings."""

    config: BenchConfig
    found: Agents
    bank: Bank


def material(config: BenchConfig, root: Path, *, threads: int | None = None) -> Material:
    """Agents and bank, from the cache or made now."""
    found = agents(config.agents, root, threads=threads)
    return Material(config, found, bank(config.bank, config.agents, found, root, threads=threads))


def make_member(
    given: Material, method: Method, hyper: Mapping[str, float], variant: str, seed: int
) -> Member:
    """The training of a method with these hyperparameters on a variant, by seed."""
    pairs = make_pairs(given.bank, parse_variant(variant), given.config.rows, seed)
    pairs, weights = prepare(method, given.bank, pairs, seed)
    return Member(method.terms(hyper), hyper["learning_rate"], pairs.winner, pairs.loser, weights, seed)


def run_members(given: Material, members: Sequence[Member], episodes: int) -> tuple[Trained, np.ndarray]:
    """Trains the members and evaluates their final policies: (trained, returns [P, episodes]). Uses one thread.

    Members of equal seed meet the same fresh start states and noise.
    """
    trained = train_population(given.bank, given.found.reference, members, given.config.inner)
    return trained, returns_of(given, trained.final(), episodes, [member.seed for member in members])


def returns_of(given: Material, policies: Params, episodes: int, seeds: Sequence[int]) -> np.ndarray:
    """Returns [P, episodes] of fresh start states (one seed per policy) in the evaluation mode of the settings."""
    with make_simulator(given.config.agents, threads=1) as simulator:
        offset = [EVALUATION_SEED + seed for seed in seeds]
        return evaluate(simulator, policies, episodes, offset, mode=given.config.mode)
