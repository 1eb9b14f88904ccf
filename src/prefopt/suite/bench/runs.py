"""What tuning, bench, search and single trainings share: a lineage's agents and bank, members made from their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.suite.agents.agents import Agents, agents, make_simulator
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.data.bank import Bank, bank
from prefopt.suite.data.variants import held_out_pairs, make_pairs, parse_variant
from prefopt.suite.inner.heldout import Signals, held_out_signals
from prefopt.suite.inner.methods import Method, prepare
from prefopt.suite.inner.training import Member, Trained, train_population
from prefopt.suite.simulator.episodes import evaluate
from prefopt.suite.simulator.policy import Params

TUNING_SEED = 500_000  # rows, labels and orders of tuning; the bench's seeds are 0, 1, ...
EVALUATION_SEED = 700_000


@dataclass(frozen=True)
class Material:
    """Agents and bank of one lineage; `config` is that of the lineage."""

    config: BenchConfig
    found: Agents
    bank: Bank

    @property
    def lineage(self) -> int:
        """The seed of the agents."""
        return self.config.agents.seed


def material(config: BenchConfig, root: Path, *, lineage: int, threads: int | None = None) -> Material:
    """Agents and bank of a lineage, from the package or the cache or made now."""
    own = config.of_lineage(lineage)
    found = agents(own.agents, root, threads=threads)
    return Material(own, found, bank(own.bank, own.agents, found, root, threads=threads))


def make_member(
    given: Material, method: Method, hyper: Mapping[str, float], variant: str, seed: int
) -> Member:
    """The training of a method with these hyperparameters on a variant, by seed."""
    pairs = make_pairs(given.bank, parse_variant(variant), given.config.rows, seed)
    pairs, weights = prepare(method, given.bank, pairs, seed)
    return Member(method.terms(hyper), hyper["learning_rate"], pairs.winner, pairs.loser, weights, seed)


def train_members(given: Material, members: Sequence[Member], *, workers: int = 1) -> Trained:
    """The members trained from the lineage's reference."""
    return train_population(given.bank, given.found.reference, members, given.config.inner, workers=workers)


def returns_of(
    given: Material,
    policies: Params,
    episodes: int,
    seeds: Sequence[int],
    *,
    threads: int = 1,
    block: int = 1024,
) -> np.ndarray:
    """Returns [P, episodes] of fresh start states (one seed per policy) in the evaluation mode of the settings.

    Policies of equal seed meet the same start states and noise; lineages share none. block: environments in one batch.
    """
    with make_simulator(given.config.agents, threads=threads) as simulator:
        offset = [EVALUATION_SEED + 10_000_000 * given.lineage + seed for seed in seeds]
        return evaluate(simulator, policies, episodes, offset, mode=given.config.mode, block=block)


def signals_of(
    given: Material, trained: Trained, members: Sequence[Member], variants: Sequence[str]
) -> list[Signals]:
    """The held-out signals of every member's snapshots, each on the variant that it was trained on."""
    out = []
    for k, (member, variant) in enumerate(zip(members, variants, strict=True)):
        pairs = held_out_pairs(given.bank, parse_variant(variant), given.config.rows, member.seed)
        snapshots = {name: x[k] for name, x in trained.policies.items()}
        inner = given.config.inner
        out.append(held_out_signals(given.bank, given.found.reference, member.loss, snapshots, pairs, inner))
    return out


def snapshots_of(trained: Trained, places: Sequence[tuple[int, int]]) -> Params:
    """The policies at (member, snapshot) places, stacked [N, ...]."""
    members, snapshots = (np.array(x) for x in zip(*places, strict=True))
    return {name: x[members, snapshots] for name, x in trained.policies.items()}


def lineage_figures(given: Material) -> dict[str, Any]:
    """What a result says of a lineage."""
    agents_of = {name: given.found.figures[name] for name in ("reference", "expert")}
    return {
        "seed": given.lineage,
        **agents_of,
        "sha256": given.found.identity(),
        "shipped": given.found.shipped,
    }


def share(given: Material, returns: np.ndarray) -> np.ndarray:
    """(return - reference) / (expert - reference) of the lineage."""
    reference, expert = (given.found.figures[name]["return"] for name in ("reference", "expert"))
    return (returns - reference) / (expert - reference)
