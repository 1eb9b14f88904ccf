"""Reference and expert of an environment: shipped with the package, or trained once and cached under their settings' hash.

The expert is the checkpoint that is best in a separate evaluation (the best point of the training curve is optimistic); the
reference is the earlier checkpoint nearest to `reference_share` of the expert's return, or, where an environment puts a
constraint on a trained agent (three-legged Ant), the expert of the environment without it. A killed training continues from
its last checkpoint and gives the same agents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import Config
from prefopt.suite.agents.lineages import SHIPPED, shipped
from prefopt.suite.agents.ppo import PPOConfig, init, iterate, pack, unpack
from prefopt.suite.simulator.environments import find_environment
from prefopt.suite.simulator.episodes import evaluate
from prefopt.suite.simulator.policy import Params, stack
from prefopt.suite.simulator.simulator import Simulator
from prefopt.suite.store import arrays_hash, finish, finished, folder_of, load_arrays, read_json, save_arrays
from prefopt.tables.records import write_json

EVALUATION_SEEDS = (900_001, 900_002, 900_003)  # coarse, fine, the recorded figures
FINALISTS = 4


class AgentsConfig(Config):
    """What decides the two agents; everything else about them follows."""

    environment: str = Field("hopper", description="hopper, ant, three_legged_ant or masked_ant")
    integrator: str = Field("rk4", description="rk4 (Gymnasium's) or euler (faster, another MDP)")
    backend: str = Field("default", description="default (by environment: rollout or pool), pool or mjx")
    seed: int = Field(0, ge=0, description="seed of the training")
    reference_share: float = Field(
        0.4, gt=0, lt=1, description="reference's return as a share of the expert's"
    )
    evaluation_episodes: int = Field(100, ge=4, description="episodes behind the recorded returns")
    ppo: PPOConfig = Field(PPOConfig(), description="settings of the training")


@dataclass(frozen=True)
class Agents:
    """Two policies and their figures (returns with standard errors, stochastic actions)."""

    reference: Params
    expert: Params
    figures: dict[str, Any]
    folder: Path
    shipped: bool = False

    def policies(self) -> dict[str, Params]:
        """Both by name."""
        return {"reference": self.reference, "expert": self.expert}

    def identity(self) -> dict[str, str]:
        """SHA-256 of each policy's numbers: what data drawn from the agents depends on."""
        return {name: arrays_hash(policy) for name, policy in self.policies().items()}


def make_simulator(config: AgentsConfig, threads: int | None = None) -> Simulator:
    """The simulator of these settings."""
    backend = None if config.backend == "default" else config.backend
    environment = find_environment(config.environment)
    return Simulator(environment, threads=threads, backend=backend, integrator=config.integrator)


def agents(config: AgentsConfig, root: Path, *, threads: int | None = None, fresh: bool = False) -> Agents:
    """The agents trained below `root`, else those shipped for these settings, else trained now; fresh: never the shipped ones."""
    settings = config.model_dump(mode="json")
    folder = folder_of(root, f"agents-{config.environment}", settings)
    figures = finished(folder)
    if figures is None and not fresh and (found := shipped(settings)) is not None:
        (reference, expert), figures = found
        return Agents(reference, expert, figures, SHIPPED, shipped=True)
    if figures is None:
        given = None
        if trained_on := find_environment(config.environment).pretrained_on:
            before = config.model_copy(update={"environment": trained_on})
            given = agents(before, root, threads=threads, fresh=fresh)
        with make_simulator(config, threads) as simulator:
            train(simulator, config, folder)
            figures = pick(simulator, config, folder, given)
        finish(folder, figures)
    chosen = [load_arrays(folder / f"{name}.safetensors") for name in ("reference", "expert")]
    return Agents(chosen[0], chosen[1], figures, folder)


def train(
    simulator: Simulator, config: AgentsConfig, folder: Path, stop: Callable[[int], bool] | None = None
) -> None:
    """Runs PPO to its end, or until `stop(iteration)`; checkpoints and the state to resume from lie in `folder`."""
    from prefopt.suite.bars import bar

    ppo, path = config.ppo, folder / "state.safetensors"
    state = unpack(load_arrays(path)) if path.exists() else init(simulator, ppo, config.seed)
    recent: list[float] = []
    with bar(f"ppo {config.environment}", ppo.iterations, done=state.iteration) as advance:
        while state.iteration < ppo.iterations:
            state, ended = iterate(simulator, ppo, config.seed, state)
            recent = (recent + ended)[-20:]
            if state.iteration % ppo.checkpoint_every == 0 or state.iteration == ppo.iterations:
                save_arrays(folder / f"actor-{state.iteration:05d}.safetensors", state.actor)
                save_arrays(path, pack(state))
            advance(1, steps=ppo.environments * ppo.horizon, value=float(np.mean(recent)) if recent else None)
            if stop is not None and stop(state.iteration):
                return


def pick(
    simulator: Simulator, config: AgentsConfig, folder: Path, given: Agents | None = None
) -> dict[str, Any]:
    """Chooses expert and reference among the checkpoints, writes them, gives their figures.

    given: agents whose expert is the reference here; `return_without` is then its return where it was trained. Where a
    checkpoint's return is below 0, shares are counted from the worst one.

    Raises:
        PrefoptError: no checkpoint after the first is any better than the worst (training was too short).
    """
    paths = sorted(folder.glob("actor-*.safetensors"))
    policies = [load_arrays(path) for path in paths]
    _, fine_seed, final_seed = EVALUATION_SEEDS
    few, some = max(4, config.evaluation_episodes // 12), max(4, config.evaluation_episodes // 4)
    coarse = _coarse(simulator, paths, policies, few, folder / "coarse.json")

    def finalists(score: np.ndarray, candidates: list[int]) -> dict[int, float]:
        best = sorted(candidates, key=lambda k: (-score[k], k))[:FINALISTS]
        returns = evaluate(simulator, stack([policies[k] for k in best]), some, fine_seed).mean(axis=1)
        return dict(zip(best, returns.tolist(), strict=True))

    top = finalists(coarse, list(range(1, len(policies))))
    floor = min(0.0, float(coarse.min()), *top.values())
    if not top or max(top.values()) <= floor:
        raise PrefoptError(f"suite agents: {folder}: no learning seen; raise ppo.steps")
    expert = max(top, key=lambda k: (top[k], -k))
    target = floor + config.reference_share * (top[expert] - floor)
    per_iteration = config.ppo.environments * config.ppo.horizon

    def steps_of(index: int) -> int:
        return int(paths[index].stem.split("-")[1]) * per_iteration

    chosen: dict[str, tuple[Params, dict[str, Any]]] = {}
    if given is not None:
        before = given.figures["expert"]
        chosen["reference"] = (given.expert, {"steps": before["steps"], "return_without": before["return"]})
    else:
        near = finalists(-np.abs(coarse - target), list(range(expert)))
        reference = min(near, key=lambda k: (abs(near[k] - target), k))
        chosen["reference"] = (policies[reference], {"steps": steps_of(reference)})
    chosen["expert"] = (policies[expert], {"steps": steps_of(expert)})
    figures: dict[str, Any] = {"mode": "stochastic", "integrator": config.integrator}
    for name, (policy, more) in chosen.items():
        save_arrays(folder / f"{name}.safetensors", policy)
        returns = evaluate(simulator, stack([policy]), config.evaluation_episodes, final_seed)[0]
        figures[name] = {
            "return": float(returns.mean()),
            "standard_error": float(returns.std(ddof=1) / np.sqrt(len(returns))),
            **more,
        }
    return figures


def _coarse(
    simulator: Simulator, paths: list[Path], policies: list[Params], episodes: int, kept: Path
) -> np.ndarray:
    """Mean returns of all checkpoints over a few episodes, kept on disk by and by."""
    from prefopt.suite.bars import bar

    scores: dict[str, float] = read_json(kept) or {}
    group = 8
    with bar("checkpoints", len(paths)) as advance:
        for first in range(0, len(paths), group):
            names = [path.name for path in paths[first : first + group]]
            if any(name not in scores for name in names):
                part = stack(policies[first : first + group])
                returns = evaluate(simulator, part, episodes, EVALUATION_SEEDS[0]).mean(axis=1)
                scores |= dict(zip(names, returns.tolist(), strict=True))
                write_json(kept, scores)
            advance(len(names), value=scores[names[-1]])
    return np.array([scores[path.name] for path in paths])
