"""Training speed and memory: prefopt against TRL's trainers, same model, pairs, optimizer steps and dtype.

    python benchmarks/train.py --quick --json out.json               the 1:1 mix alone, under 3 minutes on two cores
    python benchmarks/train.py --data DIR --json out.json            every table, about 25 minutes on two cores
    python benchmarks/train.py --only orpo/152k --json out.json      single tables, added to the file
    python benchmarks/train.py --tiny                                to see that it runs

Model: a Llama with random weights, fp32, AdamW. Every run is a process of its own, the arms in turn on the same cores:
ours, theirs, ours, theirs. Each begins with an untimed step of short pairs. TRL tries several micro-batches on one
step; the two fastest are run in full, and the faster of them in every round. A ratio is that of the two neighbours in a
round; the median counts, the least and the greatest are its interval.

Part A (tables of mixes and of losses): both get the same list of pairs for each step and the same reference log-probs,
without gradient checkpointing; the losses of every step are compared. Part B (own-order): an epoch in each tool's own
order (TRL: grouped by length), timed as a whole. Tables curves/*: a tiny model over more steps, for the losses alone.
TRL's ORPO counts the prompt in its likelihood term; for the comparison of losses it is run once more with the
paper's term (see `arms.trl_class`).

`ratio_pairs_per_s` is that of table 1:1. Memory: peak resident set of the training, above what the process held with
model and libraries loaded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import common

SEED = 0
SHAPE = {"vocabulary": 32_000, "width": 384, "layers": 6}
WIDE = {"vocabulary": 152_000, "width": 256, "layers": 4}
LOSS_TOLERANCE = 1e-4
TRL_MICRO_BATCHES = (1, 2, 4)
CURVE = {"shape": common.TINY, "steps": 20, "only_losses": True, "micro_batches": (2,)}
TABLES: dict[str, dict[str, Any]] = {
    "1:1": {"steps": 3},
    "4:1": {"mix": "4:1"},
    "1:4": {"mix": "1:4"},
    "tldr": {"mix": "tldr"},
    "hh_helpful": {"mix": "hh_helpful"},
    "dpo/152k": {"shape": WIDE},
    "orpo/32k": {"loss": "orpo"},
    "simpo/32k": {"loss": "simpo"},
    "orpo/152k": {"loss": "orpo", "shape": WIDE},
    "simpo/152k": {"loss": "simpo", "shape": WIDE},
    "own-order": {"own_order": True, "steps": 4},
    **{f"curves/{loss}": CURVE | {"loss": loss} for loss in ("dpo", "orpo", "simpo")},
}


def main() -> None:
    """Run the tables and write the figures."""
    options = common.parser(__doc__).parse_args()
    names = common.chosen_tables(options, list(TABLES))
    common.set_threads(options.threads)
    import_all()
    settings: dict[str, Any] = {
        "shape": SHAPE,
        "mix": "1:1",
        "loss": "dpo",
        "steps": 2,
        "pairs_per_step": 4,
        "learning_rate": 1e-5,
        "optimizer": "adamw_torch",
        "use_cpu": True,
        "max_tokens_per_row": None,
        "own_order": False,
        "micro_batches": TRL_MICRO_BATCHES,
        "finalists": 2,
        "data": str(options.data) if options.data else None,
        "threads": options.threads,
        "repeats": options.repeats,
    }
    quick: dict[str, Any] = {"finalists": 1} if options.quick else {}
    if options.tiny:
        quick = {"shape": common.TINY, "steps": 1, "micro_batches": (1, 2), "repeats": 1}
    results = common.Results(options.json, settings, keep=bool(options.only))
    for name in names:
        table = settings | TABLES[name] | quick
        found = measure(table)
        results.add(name, {"settings": table, **found})
        report(name, found)


def import_all() -> None:
    """Import once, before the children are forked."""
    for name in ("trl.experimental.cpo", "trl.experimental.orpo", "trl", "prefopt.training.trainer"):
        importlib.import_module(name)
    importlib.import_module("prefopt.recipes.quickstart.build")


def measure(table: dict[str, Any]) -> dict[str, Any]:
    """One table: rounds of ours and theirs, ratios, and the largest difference of losses."""
    needs_reference = table["loss"] == "dpo"
    task = table | {"reference": common.in_child(references, table)["logps"] if needs_reference else None}
    if table.get("only_losses"):
        return curves(task)
    probe, names = probe_trl(task)
    arms = {name: task | {"tool": "trl", "micro_batch": int(name.split("/")[1])} for name in names}
    arms = {"prefopt": task | {"tool": "prefopt"}} | arms
    runs = common.in_turn(run, arms, 1)
    best = max(names, key=lambda name: runs[name][0]["pairs_per_s"])
    more = common.in_turn(run, {name: arms[name] for name in ("prefopt", best)}, table["repeats"] - 1)
    runs |= {name: runs[name] + later for name, later in more.items()}
    found = {"best_trl": best, "probe_pairs_per_s": probe, **compare(runs, best)}
    if not table["own_order"]:
        expected = runs[best][0]["losses"]
        if table["loss"] == "orpo":
            expected = common.in_child(run, arms[best] | {"response_nll": True})["losses"]
        found |= agreement(runs["prefopt"][0]["losses"], expected)
    return found


def probe_trl(task: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """TRL on one step per micro-batch: pairs/s of each, and the names of the two fastest."""
    sizes = [size for size in task["micro_batches"] if task["pairs_per_step"] % size == 0]
    rates = {}
    for size in sizes:
        short = task | {"tool": "trl", "micro_batch": size, "run_steps": 2 if task["own_order"] else 1}
        rates[f"trl/{size}"] = common.in_child(run, short)["pairs_per_s"]
    return rates, sorted(rates, key=lambda name: -rates[name])[: task["finalists"]]


def curves(task: dict[str, Any]) -> dict[str, Any]:
    """Both tools once, for their losses."""
    size = task["micro_batches"][0]
    ours = common.in_child(run, task | {"tool": "prefopt"})
    theirs = common.in_child(run, task | {"tool": "trl", "micro_batch": size, "response_nll": task["loss"] == "orpo"})  # fmt: skip
    return agreement(ours["losses"], theirs["losses"])


def compare(runs: dict[str, list[dict[str, Any]]], best: str) -> dict[str, Any]:
    """Ratios of ours to TRL's best, round by round, and each arm's figures."""
    rounds = list(zip(runs["prefopt"], runs[best], strict=True))
    return {
        "ratio_pairs_per_s": common.interval([a["pairs_per_s"] / b["pairs_per_s"] for a, b in rounds]),
        "ratio_peak_memory": common.interval(
            [a["peak_memory_mib"] / b["peak_memory_mib"] for a, b in rounds]
        ),
        "arms": {
            name: {
                figure: common.interval([run[figure] for run in several])
                for figure in ("pairs_per_s", "tokens_per_s", "peak_memory_mib")
            }
            for name, several in runs.items()
        },
    }


def agreement(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Losses of each step by both tools, and how far they are apart."""
    largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return {
        "losses": {"prefopt": ours, "trl": theirs},
        "largest_loss_difference": largest,
        "losses_agree": largest <= LOSS_TOLERANCE,
    }


def report(name: str, found: dict[str, Any]) -> None:
    """A table in lines."""
    for arm, figures in found.get("arms", {}).items():
        rate, tokens, memory = (figures[key]["median"] for key in ("pairs_per_s", "tokens_per_s", "peak_memory_mib"))  # fmt: skip
        print(f"{name:12} {arm:8} {rate:9.3f} pairs/s {tokens:10.1f} tokens/s {memory:8.0f} MiB", flush=True)
    if "ratio_pairs_per_s" in found:
        speed, memory = found["ratio_pairs_per_s"], found["ratio_peak_memory"]
        print(
            f"{name:12} speed {speed['median']:.2f} ({speed['low']:.2f} to {speed['high']:.2f}), "
            f"memory {memory['median']:.2f}",
            flush=True,
        )
    if "largest_loss_difference" in found:
        print(f"{name:12} largest difference of a step's loss {found['largest_loss_difference']:.1e}", flush=True)  # fmt: skip


# ---- in processes of their own


def pairs_of(task: dict[str, Any]) -> tuple[list[common.Pair], int]:
    """The pairs of a run, and how many of its steps are not timed."""
    vocabulary, size = task["shape"]["vocabulary"], task["pairs_per_step"]
    data = Path(task["data"]) if task["data"] else None
    timed = common.make_pairs(task["mix"], task["steps"] * size, vocabulary, SEED, data)
    if task["own_order"]:
        return timed, 0
    return [*common.make_pairs("warm-up", size, vocabulary, SEED, data), *timed], 1


def references(task: dict[str, Any]) -> dict[str, Any]:
    """Both tools get the same numbers; how fast each finds them is measured by benchmarks/reference.py."""
    from prefopt.scoring.logprobs import score

    roles = ("chosen", "rejected")
    pairs, _ = pairs_of(task)
    sequences = [(pair["prompt_ids"], pair[f"{role}_ids"]) for pair in pairs for role in roles]
    logps = score(common.make_model(task["shape"], SEED), sequences, 1024)
    return {"logps": [dict(zip(roles, logps[2 * k : 2 * k + 2], strict=True)) for k in range(len(pairs))]}


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Train one arm; speed, memory and losses."""
    import arms

    pairs, untimed = pairs_of(task)
    steps = untimed + task.get("run_steps", task["steps"])
    size = task["pairs_per_step"]
    # in its own order a tool may choose any of the pairs, also when it does few steps
    listed = pairs if task["own_order"] else pairs[: steps * size]
    held: list[float] = []

    def begin() -> None:
        held.append(common.rss_mib())
        common.reset_peak()

    model = common.make_model(task["shape"], SEED)
    notes = arms.train(task | {"max_steps": steps}, model, listed, task["reference"], begin)
    seconds = notes.seconds(untimed)
    count = (steps - untimed) * size
    return {
        "pairs_per_s": count / seconds,
        "tokens_per_s": common.plain_tokens(listed[untimed * size :]) / seconds,
        "peak_memory_mib": common.peak_rss_mib() - held[0],
        "losses": notes.losses,
    }


if __name__ == "__main__":
    main()
