"""`prefopt suite discover`: losses by evolution. State on disk after every generation; killed and resumed = uninterrupted.

A generation draws one of the search lineages, rows and seeds, and all its members meet the same ones. A member's fitness is
the mean over the variants of (return - reference) / (expert - reference) of the policy that its loss trained. Beside the
members run the centre and the baseline itself (the named loss), so that progress is a paired difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.agents.lineages import roles
from prefopt.suite.bars import bar
from prefopt.suite.bench.runs import Material, material, returns_of, share, train_members
from prefopt.suite.bench.settings import BenchConfig
from prefopt.suite.data.variants import make_pairs, parse_variant
from prefopt.suite.inner.training import Member
from prefopt.suite.search.settings import NOT_OF, SearchConfig
from prefopt.suite.search.space import Candidate, Space, closed_form
from prefopt.suite.search.strategy import State, advance, begin, noise_of, pack, unpack
from prefopt.suite.store import finish, finished, folder_of, load_arrays, save_arrays, suite_versions

ROW_SEED = 600_000  # rows, labels and orders of generation 0; of the re-test RETEST_SEED
RETEST_SEED = 650_000
KEPT = 3  # members kept for the re-test, by their gain over the baseline of their generation
FIGURES = ("lineage", "best", "members", "centre", "baseline")  # columns of the history
MARGIN = 1.5  # a generation or re-test is taken to last this much longer than measured


@dataclass(frozen=True)
class Progress:
    """state; history [G, len(FIGURES)]; the KEPT best vectors [K, D] and their gains [K]."""

    state: State
    history: np.ndarray
    kept: np.ndarray
    gains: np.ndarray


@dataclass(frozen=True)
class Search:
    """A search's settings with what follows from them; tuned: {hyper, updates} of the baseline."""

    config: SearchConfig
    bench: BenchConfig
    tuned: Mapping[str, Any]
    root: Path
    workers: int

    @property
    def space(self) -> Space:
        """The searched class."""
        hyper = self.tuned["hyper"]
        return Space(
            units=self.config.units,
            temporal=self.config.temporal,
            reference=self.config.start == "orpo_reference",
            lam=hyper["lam"],
            learning_rate=hyper["learning_rate"],
            length=self.tuned["updates"] / self.bench.inner.updates,
        )

    @property
    def lineages(self) -> tuple[int, ...]:
        """Seeds of the search's agents."""
        return self.config.lineages or roles(self.bench.agents.environment).search

    def settings(self) -> dict[str, Any]:
        """All that decides the search's result but its number of generations."""
        include = {"agents", "bank", "inner", "rows", "mode"}
        bench = self.bench.model_dump(mode="json", include=include)
        search = self.config.model_dump(mode="json", exclude=NOT_OF[self.config.method])
        return {
            "bench": bench,
            "search": {**search, "lineages": list(self.lineages)},
            "baseline": dict(self.tuned),
        }

    def baseline(self) -> Candidate:
        """The named loss itself where the class starts from one, else the class at its start."""
        start = self.space.candidate(self.space.start(), self.bench.inner.updates)
        if self.config.start != "orpo":
            return start
        return Candidate({"name": "orpo", "lam": self.tuned["hyper"]["lam"]}, start.learning_rate, start.stop)


def make_search(
    config: SearchConfig, bench: BenchConfig, tuned: Mapping[str, Any], root: Path, workers: int = 1
) -> Search:
    """The search of these settings. Raises PrefoptError where search and table share a lineage."""
    bench = bench.model_copy(update={"inner": bench.inner.model_copy(update={"snapshots": 1})})
    search = Search(config, bench, tuned, root, workers)
    if both := set(search.lineages) & {*bench.reporting(), *bench.tuning()}:
        raise PrefoptError(f"suite discover: lineages {sorted(both)} are reported or tuned on; give others")
    return search


def discover(
    config: SearchConfig,
    bench: BenchConfig,
    tuned: Mapping[str, Any],
    root: Path,
    *,
    workers: int = 1,
    budget_s: float | None = None,
) -> tuple[dict[str, Any], Path]:
    """Searches, re-tests and gives (result, folder); `budget_s` ends it in time with what is best by then.

    Raises:
        PrefoptError: the search and the table share a lineage.
    """
    began = time.monotonic()
    search = make_search(config, bench, tuned, root, workers)
    folder = folder_of(root, f"discover-{bench.agents.environment}", search.settings())
    progress = _generations(search, folder, deadline(began, budget_s))
    names = {"generations": progress.state.generation, "retest_episodes": config.retest_episodes}
    key = folder_of(folder, "result", names)
    result = finished(key)
    if result is None:
        result = retest(search, progress)
        finish(key, result)
    return result, key


def deadline(began: float, budget_s: float | None) -> Callable[[float], bool]:
    """Whether another piece of work of so many seconds would overrun the budget."""
    if budget_s is None:
        return lambda seconds: False
    return lambda seconds: time.monotonic() - began + seconds > budget_s


def _generations(search: Search, folder: Path, late: Callable[[float], bool]) -> Progress:
    """Runs the generations that are missing, saving after each."""
    path = folder / "state.safetensors"
    progress = _read(path) if path.exists() else first_progress(search)
    total, slowest = search.config.generations, 0.0
    given: dict[int, Material] = {}
    done = progress.state.generation
    with bar("discover", total, done=min(done, total)) as moved:
        while progress.state.generation < total:
            pieces = slowest * (1 + retest_cost(search))
            if slowest and late(MARGIN * pieces):
                break
            start = time.monotonic()
            progress = generation(search, progress, given)
            save_arrays(path, _arrays(progress))
            slowest = max(slowest, time.monotonic() - start)
            _, best, _, centre, baseline = progress.history[-1]
            moved(1, note=f"best {best:.2f}, centre {centre:.2f}, baseline {baseline:.2f}")
    return progress


def retest_cost(search: Search) -> float:
    """The final re-test in units of a generation, by episodes."""
    candidates = 3 + KEPT
    members = search.config.population + 2
    return (
        candidates * len(search.lineages) * search.config.retest_episodes / (members * search.config.episodes)
    )


def first_progress(search: Search) -> Progress:
    """Before the first generation: the centre is the baseline."""
    start = search.space.start()
    kept = np.tile(start, (KEPT, 1))
    return Progress(begin(start), np.zeros((0, len(FIGURES))), kept, np.full(KEPT, -np.inf))


def generation(search: Search, progress: Progress, given: dict[int, Material]) -> Progress:
    """One generation. given: lineages that are in memory, added to."""
    config, state = search.config, progress.state
    rng = np.random.default_rng([config.seed, 301, state.generation])
    lineage = int(rng.choice(search.lineages))
    if lineage not in given:
        given[lineage] = material(search.bench, search.root, lineage=lineage, threads=search.workers)
    noise = noise_of(state, config.population, config.seed)
    vectors = state.centre + config.sigma * noise
    updates = search.bench.inner.updates
    candidates = [search.space.candidate(v, updates) for v in (*vectors, state.centre)]
    seed = ROW_SEED + 1000 * config.seed + state.generation
    values = fitness(search, given[lineage], [*candidates, search.baseline()], seed, config.episodes).mean(
        axis=1
    )
    members, centre, baseline = values[:-2], values[-2], values[-1]
    gains = np.where(np.isnan(members), -np.inf, members) - baseline
    pool = np.concatenate([progress.gains, gains])
    best = np.argsort(-pool, kind="stable")[:KEPT]
    finite = members[np.isfinite(members)]
    best_share, mean = (finite.max(), finite.mean()) if len(finite) else (np.nan, np.nan)
    row = [lineage, best_share, mean, centre, baseline]
    return Progress(
        advance(state, noise, members, config.sigma, config.rate),
        np.concatenate([progress.history, [row]]),
        np.concatenate([progress.kept, vectors])[best],
        pool[best],
    )


def fitness(
    search: Search, given: Material, candidates: Sequence[Candidate], seed: int, episodes: int
) -> np.ndarray:
    """Shares [P, variants] of the way from reference to expert; NaN where a policy's return is no number."""
    members = []
    for variant in search.config.variants:
        pairs = make_pairs(given.bank, parse_variant(variant), given.config.rows, seed)
        weights = np.ones(len(pairs.winner))
        members += [
            Member(c.loss, c.learning_rate, pairs.winner, pairs.loser, weights, seed, stop=c.stop)
            for c in candidates
        ]
    trained = train_members(given, members, workers=search.workers)
    returns = returns_of(given, trained.final(), episodes, [seed] * len(members), threads=search.workers)
    return share(given, returns.mean(axis=1)).reshape(len(search.config.variants), len(candidates)).T


def retest(search: Search, progress: Progress) -> dict[str, Any]:
    """Centre, the best members and the centre's closed form against the baseline, on all search lineages and fresh rows.

    The result's `chosen` is the best of them by mean share, its `loss` as in a recipe.
    """
    updates = search.bench.inner.updates
    centre = search.space.candidate(progress.state.centre, updates)
    found = {"baseline": search.baseline(), "centre": centre}
    found |= {
        f"member_{k}": search.space.candidate(v, updates)
        for k, v in enumerate(progress.kept)
        if np.isfinite(progress.gains[k])
    }
    found["closed_form"] = Candidate(closed_form(centre.loss), centre.learning_rate, centre.stop)
    values = []
    for lineage in search.lineages:
        given = material(search.bench, search.root, lineage=lineage, threads=search.workers)
        seed = RETEST_SEED + search.config.seed
        values.append(fitness(search, given, list(found.values()), seed, search.config.retest_episodes))
    shares = np.stack(values)  # [L, C, V]
    mean = np.nan_to_num(shares.mean(axis=(0, 2)), nan=-np.inf)
    names = list(found)
    chosen = names[int(np.argmax(mean[1:])) + 1]  # the baseline is no candidate
    pick = found[chosen]
    members = search.config.population + 2
    trainings = progress.state.generation * members * len(search.config.variants)
    return {
        "settings": search.settings(),
        "generations": progress.state.generation,
        "cost": {"trainings": trainings, "episodes": trainings * search.config.episodes},
        "history": [
            {name: value if np.isfinite(value) else None for name, value in zip(FIGURES, row, strict=True)}
            for row in progress.history.tolist()
        ],
        "retest": {name: plain_shares(shares[:, k]) for k, name in enumerate(names)},
        "chosen": chosen,
        "loss": numbers(pick.loss),
        "learning_rate": pick.learning_rate,
        "updates": pick.stop,
        "versions": suite_versions(),
    }


def plain_shares(shares: np.ndarray) -> dict[str, Any]:
    """Mean share and the shares [L][V]; what is not a number is None, as JSON has none."""
    values = [[float(x) if np.isfinite(x) else None for x in row] for row in shares]
    mean = float(np.mean(shares))
    return {"share": mean if np.isfinite(mean) else None, "by_lineage_and_variant": values}


def numbers(value: Any) -> Any:
    """Arrays as lists of floats."""
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    return np.asarray(value, dtype=np.float64).tolist() if hasattr(value, "dtype") else value


def _arrays(progress: Progress) -> dict[str, np.ndarray]:
    return {
        **pack(progress.state),
        "history": progress.history,
        "kept": progress.kept,
        "gains": progress.gains,
    }


def _read(path: Path) -> Progress:
    arrays = load_arrays(path)
    return Progress(unpack(arrays), arrays["history"], arrays["kept"], arrays["gains"])
