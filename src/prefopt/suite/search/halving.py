"""Random search with successive halving (1502.07943) over the class: another way to search than evolution, at equal cost.

All candidates are trained in the first search lineage, the best share `keep` of them in the next one as well, and so on; a
score is the mean share over the lineages met so far, the same ones for all that are compared. The finalists meet all search
lineages with fresh rows, the LAST of them once more with others: the best of both re-tests is chosen, the second, in which
nothing but the last choice is selection, is what is told of it. Blocks of candidates are files, so a killed search continues
and ends in the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.suite.bars import bar
from prefopt.suite.bench.runs import Material, material
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.search.discover import (
    RETEST_SEED,
    ROW_SEED,
    Search,
    deadline,
    fitness,
    make_search,
    numbers,
    plain_shares,
)
from prefopt.suite.search.draws import draw
from prefopt.suite.search.settings import SearchConfig
from prefopt.suite.search.space import Candidate, closed_form
from prefopt.suite.store import finish, finished, folder_of, load_arrays, save_arrays, suite_versions

BLOCK = 16  # candidates per file
LAST = 3
Late = Callable[[float], bool]


def halve(
    config: SearchConfig,
    bench: BenchConfig,
    tuned: Mapping[str, Any],
    root: Path,
    *,
    workers: int = 1,
    budget_s: float | None = None,
) -> tuple[dict[str, Any], Path]:
    """Searches and gives (result, folder), as `discover`; a budget cuts the first rung, and the others with it.

    Raises:
        PrefoptError: the search and the table share a lineage.
    """
    late = deadline(time.monotonic(), budget_s)
    search = make_search(config, bench, tuned, root, workers)
    folder = folder_of(search.root, f"halving-{search.bench.agents.environment}", search.settings())
    done = finished(folder)
    if done is not None:
        return done, folder
    race = Race(search, folder)
    survivors = race.rungs(late)
    result = race.final(survivors)
    finish(folder, result)
    return result, folder


class Race:
    """The state of one search: vectors [N, D] of all candidates, what was trained, material by lineage."""

    def __init__(self, search: Search, folder: Path) -> None:
        self.search, self.folder = search, folder
        rng = np.random.default_rng([search.config.seed, 302])
        self.vectors = np.stack([draw(search.space, rng) for _ in range(search.config.candidates)])
        self.candidates = [search.space.candidate(v, search.bench.inner.updates) for v in self.vectors]
        self.given: dict[int, Material] = {}
        self.trainings = self.episodes = 0
        self.ladder: list[dict[str, Any]] = []

    def shares(
        self,
        name: str,
        lineage: int,
        who: Sequence[Candidate],
        seed: int,
        episodes: int,
        late: Late | None = None,
    ) -> np.ndarray:
        """Shares [n, V] of these candidates in a lineage; n < len(who) where `late` says so after the first block."""
        config, slowest = self.search.config, 0.0
        out: list[np.ndarray] = []
        blocks = [who[k : k + BLOCK] for k in range(0, len(who), BLOCK)]
        with bar(f"{name} lineage {lineage}", len(blocks)) as moved:
            for k, block in enumerate(blocks):
                if out and late is not None and late(slowest * self._left(sum(len(block) for block in out))):
                    break
                path = self.folder / f"{name}-{lineage}-{k:03d}.safetensors"
                if not path.exists():
                    start = time.monotonic()
                    values = fitness(self.search, self._material(lineage), block, seed, episodes)
                    save_arrays(path, {"shares": values})
                    slowest = max(slowest, time.monotonic() - start)
                out.append(load_arrays(path)["shares"])
                self.trainings += len(block) * len(config.variants)
                self.episodes += len(block) * len(config.variants) * episodes
                moved(1, note=f"best {np.nanmax(np.concatenate(out).mean(axis=1), initial=-np.inf):.2f}")
        return np.concatenate(out)

    def _material(self, lineage: int) -> Material:
        if lineage not in self.given:
            search = self.search
            self.given[lineage] = material(search.bench, search.root, lineage=lineage, threads=search.workers)
        return self.given[lineage]

    def sizes(self, count: int) -> list[int]:
        """Candidates in each rung, if `count` are in the first."""
        out = [count]
        for _ in self.search.lineages[1:]:
            out.append(
                max(min(self.search.config.finalists, count), round(self.search.config.keep * out[-1]))
            )
        return out

    def _left(self, count: int) -> float:
        """Blocks of work after the first rung, if it ends with `count` candidates, and one more block of it."""
        config, lineages = self.search.config, len(self.search.lineages)
        final = (config.finalists + LAST + 2) * lineages * max(1.0, config.retest_episodes / config.episodes)
        return 1.0 + (sum(self.sizes(count)[1:]) + final) / BLOCK

    def rungs(self, late: Late) -> list[int]:
        """The lineages one after the other; indices of the candidates that are left, best first."""
        lineages, config = self.search.lineages, self.search.config
        seed = ROW_SEED + 1000 * config.seed
        left, seen = np.arange(len(self.candidates)), np.zeros((len(self.candidates), 0))
        sizes = self.sizes(len(left))
        for k, lineage in enumerate(lineages):
            who = [self.candidates[i] for i in left]
            cut = late if k == 0 else None
            values = self.shares(f"rung-{k}", lineage, who, seed, config.episodes, cut).mean(axis=1)
            if k == 0:
                sizes = self.sizes(len(values))
            seen = np.concatenate([seen[: len(values)], values[:, None]], axis=1)
            left = left[: len(values)]
            order = best_first(seen.mean(axis=1))
            self.ladder.append({"lineage": lineage, "candidates": len(left), "best": _best(seen)})
            keep = sizes[k + 1] if k + 1 < len(sizes) else min(config.finalists, len(left))
            left, seen = left[order[:keep]], seen[order[:keep]]
        return left.tolist()

    def final(self, left: Sequence[int]) -> dict[str, Any]:
        """The re-tests of what is left; the result, as that of `discover`."""
        search, config = self.search, self.search.config
        seed = RETEST_SEED + config.seed
        finalists = [self.candidates[i] for i in left]
        first = np.stack([
            self.shares("final", n, finalists, seed, config.retest_episodes) for n in search.lineages
        ])  # fmt: skip
        order = best_first(first.mean(axis=(0, 2)))[: min(LAST, len(left))]
        best = finalists[order[0]]
        named = {"baseline": search.baseline()}
        named |= {f"member_{rank}": finalists[k] for rank, k in enumerate(order)}
        named["closed_form"] = Candidate(closed_form(best.loss), best.learning_rate, best.stop)
        who = list(named.values())
        shares = np.stack([
            self.shares("last", n, who, seed + 1000, config.retest_episodes) for n in search.lineages
        ])  # [L, C, V]  # fmt: skip
        both = first[:, order].mean(axis=(0, 2)) + shares[:, 1 : 1 + len(order)].mean(axis=(0, 2))
        chosen = f"member_{int(best_first(both)[0])}"
        pick = named[chosen]
        return {
            "settings": search.settings(),
            "generations": len(self.ladder),
            "cost": {"trainings": self.trainings, "episodes": self.episodes},
            "history": self.ladder,
            "retest": {name: plain_shares(shares[:, k]) for k, name in enumerate(named)},
            "chosen": chosen,
            "loss": numbers(pick.loss),
            "learning_rate": pick.learning_rate,
            "updates": pick.stop,
            "versions": suite_versions(),
        }


def best_first(scores: np.ndarray) -> np.ndarray:
    """Indices from the best score to the worst; what is not a number is worst, the earlier of equals first."""
    return np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")


def _best(seen: np.ndarray) -> float | None:
    means = seen.mean(axis=1)
    return float(np.nanmax(means)) if np.isfinite(means).any() else None
