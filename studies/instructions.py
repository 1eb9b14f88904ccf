"""What each way of learning from checked answers is worth on a real chat model, over seeds.

    python studies/instructions.py --model DIR --seeds 3 --ifeval FILE --pairs FILE --json studies/results/instructions.json

Every seed is a whole run of recipes/instructions.yaml: sampling, pairs, training, evaluation on prompts of unseen subjects and
unseen wordings. Beside them every model answers prompts of IFEval (2311.07911; `--ifeval`, its own form), greedily, and is asked
how likely it finds the chosen answers of real conversations (`--pairs`), as a measure of what else it knows. Per arm and seed:

    heldout, heldout_greedy    share of test prompts whose constraints are all kept, sampled and greedy
    ifeval_prompt_strict       the same of IFEval's prompts (strict)
    length                     tokens of the sampled test answers, mean
    general                    log-prob per token of the real chosen answers, nats, mean over answers

`seconds` is the time of the runs of the recipe, IFEval and general figures excluded. Run folders below --runs: a killed study continues.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from pathlib import Path
from typing import Any

import prefopt
from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run
from prefopt.rules.student import over_seeds
from prefopt.tables.records import rows_of, write_json
from prefopt.tables.versions import versions

RECIPE = "instructions"
MEASURES = ("heldout", "heldout_greedy", "ifeval_prompt_strict", "length", "general")


def main() -> None:
    """Runs what is missing and writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0..N-1")
    parser.add_argument("--ifeval", type=Path)
    parser.add_argument("--ifeval-limit", type=int, default=96)
    parser.add_argument("--ifeval-tokens", type=int, default=160)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--pairs-limit", type=int, default=100)
    parser.add_argument("--runs", type=Path, default=Path("runs/study-instructions"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    seeds = list(range(options.seeds))
    summaries, found = [], []
    for seed in seeds:
        folder = options.runs / str(seed)
        summaries.append(run(load_recipe(RECIPE, {"seed": seed, "model": options.model}), folder))
        found.append(
            {arm: _figures(folder, arm, summaries[-1], options) for arm in ["base", *summaries[-1]["arms"]]}
        )
    write_json(options.json, {
        "study": RECIPE,
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(options).items()
            if name not in ("model", "ifeval", "pairs", "runs", "json")
        },
        "model": Path(options.model).name,
        "seeds": seeds,
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "versions": versions(),
        "seconds": [summary["seconds"] for summary in summaries],
        "arms": {
            arm: {name: [figures[arm][name] for figures in found] for name in MEASURES} for arm in found[0]
        },
        "full_against": {arm: _against(found, arm) for arm in found[0] if arm != "full"},
    })  # fmt: skip


def _figures(folder: Path, arm: str, summary: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    run_ = prefopt.Run(folder)
    model = options.model if arm == "base" else run_.model_of(arm)
    answers = [
        row
        for row in rows_of(run_.table("evaluate", arm))
        if row["kind"] == "sample" and row["mode"] == "sampled"
    ]
    return {
        "heldout": summary["accuracy"][arm]["mean"],
        "heldout_greedy": summary["greedy"][arm]["mean"],
        "length": statistics.fmean(row["completion_tokens"] for row in answers),
        "ifeval_prompt_strict": _ifeval(model, folder / "ifeval" / arm, options),
        "general": _general(model, folder / "general" / arm, options),
    }


def _ifeval(model: Any, output: Path, options: argparse.Namespace) -> float | None:
    if options.ifeval is None:
        return None
    done = prefopt.evaluate(
        str(options.ifeval), model=model, output=output, n=0, greedy=True, limit=options.ifeval_limit,
        max_new_tokens=options.ifeval_tokens, batch_size=96, dtype="bfloat16", pairs="none",
    )  # fmt: skip
    return float(done.quality["greedy"]["mean"])


def _general(model: Any, output: Path, options: argparse.Namespace) -> float | None:
    if options.pairs is None:
        return None
    pairs = prefopt.load_dataset(options.pairs, heldout=0.0, limit=options.pairs_limit)
    table = prefopt.reference(pairs, model=model, output=output, max_length=512, dtype="bfloat16")
    return statistics.fmean(row["ref_chosen_logps"] / row["chosen_tokens"] for row in rows_of(table))


def _against(found: list[dict[str, dict[str, Any]]], arm: str) -> dict[str, Any]:
    return {
        name: over_seeds([figures["full"][name] - figures[arm][name] for figures in found])
        for name in MEASURES
        if found[0]["full"][name] is not None
    }


if __name__ == "__main__":
    main()
