"""Speed of the diagnostic suite: rollouts with a policy, populations against torch.func.vmap, evaluation, agents.

    python benchmarks/suite.py --json benchmarks/results/suite.json            # about five minutes on two cores, three of them agents
    python benchmarks/suite.py --only rollouts,population --tiny               # to see that it runs: no figures to keep

rollouts    steps/s of many environments side by side, 2x64 policy in the loop, finished episodes started anew
population  P trainings of DPO on made-up trajectories: `train_population` (jax.lax.map) against the same updates written with
            torch.func.vmap over the members' networks (the suite itself never imports torch); compiling is left out
evaluation  64 policies, 8 episodes each, in one batch
agents      Hopper's reference and expert from nothing, as `prefopt suite agents` makes them
generation  one generation of `prefopt suite discover` on Hopper: 64 members, 400 updates, 8 episodes (first one not counted)
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import interval, machine, write_json

from prefopt.suite.agents.agents import AgentsConfig, agents
from prefopt.suite.data.bank import Bank
from prefopt.suite.inner.training import InnerConfig, Member, train_population
from prefopt.suite.simulator.environments import ENVIRONMENTS
from prefopt.suite.simulator.episodes import evaluate
from prefopt.suite.simulator.policy import act, init_policy, log_prob, normalise, stack
from prefopt.suite.simulator.simulator import Simulator

BETA, RATE, ROWS = 0.01, 3e-4, 256
ROLLOUTS = (("hopper", 1024), ("hopper", 64), ("ant", 256), ("ant", 64))
TARGETS = {"hopper": 20_000, "ant": 8_000}


def main() -> None:
    """Runs the tables asked for and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--json",
        type=Path,
        help="file for the figures, written after each table; tables that it has and that are not asked for stay",
    )
    parser.add_argument("--only", default="rollouts,population,evaluation,agents,generation", help="tables")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    options = parser.parse_args()
    tables: dict[str, Callable[[argparse.Namespace], Any]] = {
        "rollouts": rollouts, "population": population, "evaluation": evaluation, "agents": agent_training,
        "generation": generation,
    }  # fmt: skip
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    result: dict[str, Any] = {
        "threads": options.threads,
        "machine": machine(),
        "tables": known.get("tables", {}),
    }
    for name in options.only.split(","):
        result["tables"][name] = tables[name](options)
        print(name, result["tables"][name], flush=True)
        if options.json:
            write_json(options.json, result)


def timed(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    function()
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        out.append(time.perf_counter() - start)
    return out


def rollouts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps per second by environment and count."""
    out = []
    for name, full in ROLLOUTS:
        count = 8 if options.tiny else full
        steps = 10 if options.tiny else max(20, 30_000 // count)
        with Simulator(ENVIRONMENTS[name], threads=options.threads) as simulator:
            seconds = timed(partial(roll, simulator, count, steps), options.repeats)
        out.append({
            "environment": name, "backend": simulator.backend, "count": count,
            "steps_per_s": interval([count * steps / s for s in seconds]), "target": TARGETS[name],
        })  # fmt: skip
    return out


def roll(simulator: Simulator, count: int, steps: int) -> None:
    """`steps` steps of `count` environments with a fresh policy; finished episodes start anew."""
    env, rng = simulator.environment, np.random.default_rng(0)
    policy = init_policy(rng, env.observation_dims, env.action_dims)
    state = simulator.reset(count, rng)
    observation = simulator.observe(state)
    for _ in range(steps):
        noise = rng.standard_normal((count, env.action_dims), dtype=np.float32)
        step = simulator.step(state, np.clip(act(policy, observation, noise), -1, 1))
        state, observation = step.state, step.observation
        ended = np.flatnonzero(step.terminated)
        if len(ended):
            fresh = simulator.reset(len(ended), rng)
            state = state.put(ended, fresh)
            observation[ended] = simulator.observe(fresh)


# ---- populations


def made_up(trajectories: int, length: int) -> tuple[Bank, dict[str, np.ndarray]]:
    """Trajectories of noise in Hopper's sizes, and a reference policy."""
    rng = np.random.default_rng(0)
    reference = init_policy(rng, 11, 3)
    steps = trajectories * length
    observations = rng.standard_normal((steps, 11)).astype(np.float32)
    actions = rng.standard_normal((steps, 3)).astype(np.float32)
    logps = log_prob(reference, normalise(reference, observations), actions).astype(np.float32)
    offsets, lengths = np.arange(trajectories) * length, np.full(trajectories, length)
    return Bank(observations, actions, logps, offsets, lengths, np.zeros(trajectories), 1), reference


def population(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of both arms and their ratio, by the number of members."""
    sizes, updates = ((2,), 4) if options.tiny else ((8, 32), 100)
    bank, reference = made_up(2 * ROWS, 500)
    config, last = InnerConfig(updates=updates), slice(-max(1, updates // 10), None)
    out = []
    for size in sizes:
        ours = partial(own_population, bank, reference, size, config, options.threads)
        theirs = partial(torch_population, bank, reference, size, config, options.threads)
        arms = {"prefopt": timed(ours, options.repeats), "torch.func.vmap": timed(theirs, options.repeats)}
        median = {name: float(np.median(x)) for name, x in arms.items()}
        out.append({
            "members": size, "updates": updates, "seconds": {n: interval(x) for n, x in arms.items()},
            "speedup": median["torch.func.vmap"] / median["prefopt"], "target": 2.0,
            "last_losses": {"prefopt": float(ours()[last].mean()), "torch.func.vmap": float(theirs()[last].mean())},
        })  # fmt: skip
    return out


def own_population(
    bank: Bank, reference: dict[str, np.ndarray], size: int, config: InnerConfig, threads: int
) -> Any:
    """P members by the suite's own training; mean loss of every update."""
    winner, loser = np.arange(ROWS), np.arange(ROWS) + ROWS
    loss = {"name": "dpo", "beta": BETA}
    members = [Member(loss, RATE, winner, loser, np.ones(ROWS), seed) for seed in range(size)]
    trained = train_population(bank, reference, members, config, workers=threads)
    return trained.history[:, :, 0].mean(axis=0)


def torch_population(
    bank: Bank, reference: dict[str, np.ndarray], size: int, config: InnerConfig, threads: int
) -> Any:
    """The same training in torch, members stacked and mapped by torch.func.vmap; mean loss of every update."""
    import torch
    from torch.func import grad_and_value, vmap

    torch.set_num_threads(threads)
    features, actions, ref = (
        torch.from_numpy(np.ascontiguousarray(x))
        for x in (normalise(reference, bank.observations), bank.actions, bank.ref_logps)
    )
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.from_numpy(x).repeat(size, *[1] * x.ndim)
        for name, x in reference.items()
        if not name.startswith("obs_")
    }
    first, second = ({name: torch.zeros_like(x) for name, x in params.items()} for _ in range(2))
    length, drawn = int(bank.lengths[0]), config.steps_drawn

    def logp(p: dict[str, Any], x: Any, a: Any) -> Any:
        h = torch.tanh(torch.tanh(x @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        log_std = p["log_std"].clamp(min=float(np.log(0.05)))
        z = (a - h) / log_std.exp()
        return (-0.5 * z * z - log_std - 0.5 * np.log(2 * np.pi) + np.log(0.1)).sum(-1)

    def loss(p: dict[str, Any], rows: Any) -> Any:
        """rows [2, B, K]: steps of winners and losers."""
        ratio = (logp(p, features[rows], actions[rows]) - ref[rows]).sum(-1) * (length / drawn)
        return -torch.nn.functional.logsigmoid(BETA * (ratio[0] - ratio[1])).mean()

    step = vmap(grad_and_value(loss))
    out = []
    for update in range(1, config.updates + 1):
        pair = torch.randint(ROWS, (size, config.pairs), generator=generator)
        place = torch.arange(drawn) + torch.rand(size, 2, config.pairs, drawn, generator=generator)
        inside = (place / drawn * length).long().clamp(max=length - 1)
        rows = torch.stack([pair, pair + ROWS], dim=1)[..., None] * length + inside
        grads, values = step(params, rows)
        norm = sum(g.flatten(1).pow(2).sum(1) for g in grads.values()).sqrt()
        shrink = (config.max_grad_norm / norm).clamp(max=1.0)
        for name, g in grads.items():
            g = g * shrink.view(-1, *[1] * (g.ndim - 1))
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            mean, spread = first[name] / (1 - 0.9**update), second[name] / (1 - 0.999**update)
            params[name] = params[name] - RATE * mean / (spread.sqrt() + config.adam_eps)
        out.append(values.mean())
    return torch.stack(out).numpy()


# ---- whole pieces


def evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """64 policies on 8 episodes each in one batch."""
    policies, episodes = (4, 2) if options.tiny else (64, 8)
    rng = np.random.default_rng(0)
    each = stack([init_policy(rng, 11, 3) for _ in range(policies)])
    with Simulator(ENVIRONMENTS["hopper"], threads=options.threads) as simulator:
        seconds = timed(
            lambda: evaluate(simulator, each, episodes, 0, block=policies * episodes), options.repeats
        )
    return {"policies": policies, "episodes": episodes, "seconds": interval(seconds)}


def agent_training(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from nothing to both agents, once, and their returns."""
    changes: dict[str, Any] = (
        {"ppo": {"steps": 3072, "environments": 8, "horizon": 32}, "evaluation_episodes": 4}
        if options.tiny
        else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = agents(AgentsConfig.model_validate(changes), Path(folder), threads=options.threads)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "target_s": 180, "figures": found.figures}


def generation(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a generation, with the agents that the package ships; compiling and the trajectories are left out."""
    from prefopt.suite.bench.settings import bench_config
    from prefopt.suite.search import discover

    bench = bench_config("toy" if options.tiny else "small", {"inner": {"snapshots": 1}})
    members = 4 if options.tiny else 64
    config = discover.SearchConfig(population=members, units=21, lineages=(5,))
    tuned = {"hyper": {"lam": 0.3, "learning_rate": 2e-3}, "updates": bench.inner.updates}
    with tempfile.TemporaryDirectory() as folder:
        search = discover.Search(config, bench, tuned, Path(folder), options.threads)
        given: dict[int, Any] = {}
        progress = discover.first_progress(search)
        seconds = timed(lambda: discover.generation(search, progress, given), options.repeats)
    return {
        "members": members,
        "updates": bench.inner.updates,
        "episodes": config.episodes,
        "seconds": interval(seconds),
        "target_s": 30,
    }


if __name__ == "__main__":
    main()
