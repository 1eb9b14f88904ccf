"""The trajectory bank: episodes of expert and reference from shared start states, drawn once, used by every variant.

Trajectories lie end to end: `observations` [S, O], `actions` [S, A] over all S steps; `offsets`, `lengths`, `returns` [N]
per trajectory. Start state s owns 1 + R trajectories in a row: the expert's, then R of the reference. Only steps that
happened are stored, so nothing needs a mask after the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from prefopt.core.settings import Config
from prefopt.suite.agents.agents import Agents, AgentsConfig, make_simulator
from prefopt.suite.simulator.episodes import run_episodes
from prefopt.suite.simulator.policy import log_prob, normalise, stack
from prefopt.suite.simulator.simulator import Simulator
from prefopt.suite.store import finish, finished, folder_of, load_arrays, save_arrays

ARRAYS = ("observations", "actions", "ref_logps", "offsets", "lengths", "returns")
BLOCK = 64  # start states per part; a killed run continues after its last part


class BankConfig(Config):
    """Size of the bank."""

    starts: int = Field(5120, gt=1, description="start states")
    references: int = Field(4, ge=2, description="reference trajectories per start state")
    seed: int = Field(0, ge=0, description="seed of start states and actions")


@dataclass(frozen=True)
class Bank:
    """ref_logps [S]: log-prob of each step's action under the reference (policy.log_prob), nats."""

    observations: np.ndarray
    actions: np.ndarray
    ref_logps: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    references: int

    @property
    def starts(self) -> int:
        """Number of start states."""
        return len(self.lengths) // (1 + self.references)

    def index(self, start: Any, slot: Any) -> Any:
        """Trajectory of a start state: slot 0 is the expert's, 1..R the reference's."""
        return start * (1 + self.references) + slot

    def ref_sums(self) -> np.ndarray:
        """Log-prob of whole trajectories under the reference, [N] nats (float64 sums)."""
        return np.add.reduceat(self.ref_logps.astype(np.float64), self.offsets)

    def tokens(self) -> np.ndarray:
        """Steps times action dimensions of each trajectory, [N]."""
        return self.lengths * self.actions.shape[1]

    def reference_returns(self) -> np.ndarray:
        """Returns of the reference's trajectories, [starts, R]."""
        return self.returns.reshape(self.starts, -1)[:, 1:]


def bank(
    config: BankConfig, agents_config: AgentsConfig, found: Agents, root: Path, *, threads: int | None = None
) -> Bank:
    """The bank from the cache below `root`, simulated first where it is not there."""
    from prefopt.suite.bars import bar

    names = (config.model_dump(mode="json"), agents_config.model_dump(mode="json"), found.identity())
    folder = folder_of(root, f"bank-{agents_config.environment}", *names)
    parts = [folder / f"part-{k:04d}.safetensors" for k in range(-(-config.starts // BLOCK))]
    if finished(folder) is None:
        with make_simulator(agents_config, threads) as simulator, bar("bank", len(parts)) as advance:
            for k, path in enumerate(parts):
                steps, value = 0, None
                if not path.exists():
                    arrays = simulate(simulator, found, config, k)
                    save_arrays(path, arrays)
                    steps, value = int(arrays["lengths"].sum()), float(arrays["returns"].mean())
                advance(1, steps=steps, value=value)
        finish(folder, _figures(_join(parts, config.references)))
    return _join(parts, config.references)


def simulate(simulator: Simulator, found: Agents, config: BankConfig, block: int) -> dict[str, np.ndarray]:
    """Start states block * BLOCK and on: one expert and R reference trajectories each; without offsets."""
    count = min(BLOCK, config.starts - block * BLOCK)
    rng = np.random.default_rng([config.seed, 100, block])
    start = simulator.reset(count, rng)
    expert = run_episodes(simulator, stack([found.expert]), start, [rng], record=True)
    repeated = start.take(np.repeat(np.arange(count), config.references))
    reference = run_episodes(simulator, stack([found.reference]), repeated, [rng], record=True)
    out: dict[str, list[np.ndarray]] = {"observations": [], "actions": []}
    lengths, returns = [], []
    for s in range(count):
        for run, row in (
            (expert, s),
            *((reference, s * config.references + k) for k in range(config.references)),
        ):
            assert run.observations is not None
            assert run.actions is not None
            steps = int(run.lengths[0, row])
            out["observations"].append(run.observations[0, row, :steps])
            out["actions"].append(run.actions[0, row, :steps])
            lengths.append(steps)
            returns.append(run.returns[0, row])
    arrays = {name: np.concatenate(x) for name, x in out.items()}
    features = normalise(found.reference, arrays["observations"])
    arrays["ref_logps"] = log_prob(found.reference, features, arrays["actions"]).astype(np.float32)
    return arrays | {"lengths": np.array(lengths), "returns": np.array(returns)}


def _join(parts: list[Path], references: int) -> Bank:
    loaded = [load_arrays(path) for path in parts]
    arrays = {name: np.concatenate([part[name] for part in loaded]) for name in loaded[0]}
    arrays["offsets"] = np.concatenate([[0], np.cumsum(arrays["lengths"])[:-1]])
    return Bank(**arrays, references=references)


def _figures(full: Bank) -> dict[str, Any]:
    by_slot = full.returns.reshape(full.starts, -1)
    return {
        "starts": full.starts,
        "steps": int(full.lengths.sum()),
        "expert_return": float(by_slot[:, 0].mean()),
        "reference_return": float(by_slot[:, 1:].mean()),
    }
