"""Speed of the reference pass: prefopt on packed rows and on padded batches, against TRL's own precompute.

    python benchmarks/reference.py --data DIR --json out.json    every table, about 8 minutes on two cores
    python benchmarks/reference.py --quick --json out.json       the 1:1 mix alone
    python benchmarks/reference.py --tiny                        to see that it runs

Log-probs of both answers of every pair under a Llama with random weights, fp32, from token ids; each run is a process of
its own, the arms in turn. TRL's loop is its `compute_ref_log_probs` over padded batches in the data's order, as its
precompute (`precompute_ref_log_probs`) runs it; several batch sizes are tried on a few pairs, and the fastest is run in
full. Collation is timed, tokenization is not, for all. All arms must agree to 1e-3 nats per answer.

A ratio is packed rows to TRL's best within a round; the median counts, the least and the greatest are its interval.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import common

SEED = 1
SHAPE = {"vocabulary": 32_000, "width": 384, "layers": 6}
WIDE = {"vocabulary": 152_000, "width": 256, "layers": 4}
WARM_UP_PAIRS = 2
TRL_BATCHES = (1, 2, 4, 8)
TABLES: dict[str, dict[str, Any]] = {
    **{name: {"mix": name} for name in ("1:1", "4:1", "1:4", *common.REAL)},
    "152k": {"mix": "1:1", "shape": WIDE},
}
LARGEST_DIFFERENCE_NATS = 1e-3


def main() -> None:
    """Run the tables and write the figures."""
    options = common.parser(__doc__).parse_args()
    names = common.chosen_tables(options, list(TABLES))
    common.set_threads(options.threads)
    for name in ("trl", "prefopt.scoring.shared", "prefopt.recipes.quickstart.build"):
        importlib.import_module(name)
    settings: dict[str, Any] = {
        "shape": SHAPE,
        "pairs": 16,
        "probe_pairs": 8,
        "batches": TRL_BATCHES,
        "data": str(options.data) if options.data else None,
        "threads": options.threads,
        "repeats": options.repeats,
    }
    tiny = {"shape": common.TINY, "pairs": 4, "probe_pairs": 2, "batches": (1, 2), "repeats": 1}
    results = common.Results(options.json, settings, keep=bool(options.only))
    for name in names:
        table = settings | TABLES[name] | (tiny if options.tiny else {})
        found = measure(table)
        results.add(name, {"settings": table, **found})
        for arm, rates in found["pairs_per_s"].items():
            print(f"{name:12} {arm:8} {rates['median']:8.3f} pairs/s", flush=True)
        ratio = found["ratio_pairs_per_s"]
        print(
            f"{name:12} ratio {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}), "
            f"differs by {found['largest_difference_nats']:.1e} nats",
            flush=True,
        )


def measure(table: dict[str, Any]) -> dict[str, Any]:
    """One table: rounds of all arms, and the ratio of packed rows to TRL's best."""
    trl = {f"trl/{size}": table | {"tool": "trl", "batch": size} for size in table["batches"]}
    few = {"pairs": table["probe_pairs"]}
    probe = {name: common.in_child(run, task | few)["pairs_per_s"] for name, task in trl.items()}
    best = max(probe, key=lambda name: probe[name])
    arms = {"packed": table | {"tool": "packed"}, best: trl[best], "padded": table | {"tool": "padded"}}
    runs = common.in_turn(run, arms, table["repeats"])
    expected = runs["padded"][0]["logps"]
    difference = max(
        abs(a - b) for several in runs.values() for a, b in zip(several[0]["logps"], expected, strict=True)
    )
    assert difference < LARGEST_DIFFERENCE_NATS, f"the arms compute different log-probs: {difference} nats"
    rates = {name: [each["pairs_per_s"] for each in several] for name, several in runs.items()}
    ratios = [ours / theirs for ours, theirs in zip(rates["packed"], rates[best], strict=True)]
    return {
        "ratio_pairs_per_s": common.interval(ratios),
        "best_trl": best,
        "probe_pairs_per_s": probe,
        "pairs_per_s": {name: common.interval(values) for name, values in rates.items()},
        "largest_difference_nats": difference,
    }


# ---- one run, in a process of its own


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Score all pairs with one arm."""
    data = Path(task["data"]) if task["data"] else None
    pairs = common.make_pairs(task["mix"], task["pairs"], task["shape"]["vocabulary"], SEED, data)
    model = common.make_model(task["shape"], SEED).eval()
    score = trl_scorer(task, model, pairs) if task["tool"] == "trl" else our_scorer(task, model, pairs)
    score(pairs[:WARM_UP_PAIRS])
    start = time.perf_counter()
    logps = score(pairs)
    return {"pairs_per_s": len(pairs) / (time.perf_counter() - start), "logps": logps}


def our_scorer(task: dict[str, Any], model: Any, pairs: list[common.Pair]) -> Any:
    """Pairs -> log-probs (chosen, rejected, chosen, ...), by packed rows or padded batches."""
    from prefopt.scoring.logprobs import score
    from prefopt.scoring.shared import check_sharing, packed_score
    from prefopt.training.rows import default_tokens_per_row

    def sequences(some: list[common.Pair]) -> list[tuple[list[int], list[int]]]:
        return [(pair["prompt_ids"], pair[f"{role}_ids"]) for pair in some for role in ("chosen", "rejected")]

    if task["tool"] == "padded":
        return lambda some: score(model, sequences(some), 8192)
    sharing = check_sharing(model, sequences(pairs))
    tokens = default_tokens_per_row(model.device)
    return lambda some: packed_score(model, sequences(some), tokens, sharing=sharing)


def trl_scorer(task: dict[str, Any], model: Any, pairs: list[common.Pair]) -> Any:
    """Pairs -> log-probs, by the trainer's method for one padded batch after the other."""
    import arms
    from datasets import Dataset

    from prefopt.recipes.quickstart.build import make_tokenizer

    base, config = arms.trl_class("dpo")
    settings = config(
        output_dir=task["folder"], use_cpu=True, bf16=False, report_to="none", max_length=None,
        disable_tqdm=True, precompute_ref_log_probs=True,
    )  # fmt: skip
    trainer = base(
        model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=make_tokenizer()
    )

    def score(some: list[common.Pair]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(some), task["batch"]):
            batch = trainer.data_collator(some[start : start + task["batch"]])
            chosen, rejected = trainer.compute_ref_log_probs(model, batch)
            for both in zip(chosen.tolist(), rejected.tolist(), strict=True):
                found.extend(both)
        return found

    return score


if __name__ == "__main__":
    main()
