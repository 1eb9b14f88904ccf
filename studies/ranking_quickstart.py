"""Part `quickstart` of the ranking study: what pairs of three kinds are worth after training.

The quickstart's base model samples eight answers to every training prompt, once per seed. One pair per prompt is then made
verify    by the gold answer (right against wrong);
ipr       by a simulated pairwise judge whose single call is right in 75% of right-against-wrong comparisons (slots drawn; position
          bias of one logit), both orders, king of the hill;
score     by a scalar reward that orders 75% of right-against-wrong pairs rightly: argmax against argmin, one score per answer.
All else is the quickstart's recipe with the loss of its arm `full`, without selection and weights. Neither ipr nor score knows which
prompts have right and wrong answers at all: they make pairs of equals too, `verify` leaves those prompts out.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from quickstart import over_seeds

from prefopt.core.settings import load_yaml, merge, parse_config
from prefopt.judges.simulated import sigmoid, uniforms
from prefopt.pipeline.recipe import Recipe, find_recipe
from prefopt.pipeline.run import BY_NAME, run
from prefopt.stages.running import stage_seed
from prefopt.tables.context import Context
from prefopt.tables.records import Row, rows_of
from prefopt.tables.table_rows import read_table

RECIPE = "quickstart"
ACCURACY, BIAS = 0.75, 1.0
ARMS = ("verify", "score", "ipr")
SMALL = {
    "train": {"steps": 4, "eval_steps": 4, "save_steps": 4},
    "evaluate": {"data": {"path": "builtin:quickstart/test.jsonl", "heldout": 0.0, "limit": 60}, "greedy": False},
}  # fmt: skip


def slope_of(accuracy: float = ACCURACY, bias: float = BIAS) -> float:
    """The slope at which a call on qualities 1 and 0, slots drawn, is right with probability `accuracy` (bisection)."""
    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        right = (sigmoid(middle + bias) + sigmoid(middle - bias)) / 2
        low, high = (middle, high) if right < accuracy else (low, middle)
    return low


def noisy_score(seed: int, row: Row) -> float:
    """is_correct * d + N(0, 1) with P(right above wrong) = Phi(d / sqrt 2) = 75%."""
    d = math.sqrt(2) * NormalDist().inv_cdf(ACCURACY)
    noise = NormalDist().inv_cdf(uniforms("score", str(seed), row["id"])[0])
    return d * bool(row["is_correct"]) + noise


def recipe_dict(seed: int, data: Path, *, small: bool) -> dict[str, Any]:
    """The quickstart's settings with three ways to rank, on recorded completions."""
    base = load_yaml(find_recipe(RECIPE))
    loss = base["arms"]["full"]["train"]["loss"]
    judge = {
        "kind": "simulated",
        "simulated": {"column": "is_correct", "slope": slope_of(), "first_bias": BIAS},
    }
    changes = {
        "name": "ranking",
        "seed": seed,
        "data": {"path": str(data), "heldout": base["data"]["heldout"]},
        "rank": {"pairs_per_prompt": 1},
        "train": {"loss": loss},
    }
    arms = {
        "verify": {"rank": {"strategy": "verify"}},
        "score": {"judge": {"kind": "recorded"}, "rank": {"strategy": "score"}},
        "ipr": {"rank": {"strategy": "ipr", "judge": judge}},
    }
    plain = {key: value for key, value in base.items() if key != "arms"}
    return merge(merge(plain, changes), SMALL if small else {}) | {"arms": arms}


def sampled_file(seed: int, folder: Path, *, small: bool) -> Path:
    """Answers of the base model with their verdict and a noisy score, one line per prompt."""
    from prefopt.models.find import resolve_model

    settings = load_yaml(find_recipe(RECIPE))
    limit = {"limit": 60} if small else {}
    stages: dict[str, Any] = {"data": settings["data"] | {"heldout": 0.0} | limit, "sample": settings["sample"], "judge": {}}  # fmt: skip
    model = resolve_model(settings["model"])
    table = None
    for name, values in stages.items():
        stage = BY_NAME[name]
        context = Context(seed=stage_seed(seed, name), model=model)
        table = stage.run(table, parse_config(stage.config, values, name), context).table
    by_prompt: dict[str, list[Row]] = {}
    for row in rows_of(table):
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    path = folder / "sampled.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for name, rows in by_prompt.items():
            answers = [
                {
                    "text": r["completion"],
                    "is_correct": r["is_correct"],
                    "score": noisy_score(seed, r),
                    "model": "base",
                }
                for r in rows
                if r["completion"].strip()
            ]
            line = {
                "id": name,
                "prompt": rows[0]["prompt"],
                "answer": rows[0]["gold"],
                "completions": answers,
            }
            file.write(json.dumps(line) + "\n")
    return path


def run_quickstart(seeds: int, *, small: bool = False) -> dict[str, Any]:
    """Accuracy after training per arm over seeds, paired differences by seed, and what the pairs were."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            file = sampled_file(seed, Path(scratch), small=small)
            recipe = parse_config(Recipe, recipe_dict(seed, file, small=small), "ranking study")
            summary = run(recipe, Path(scratch) / "run")
            pairs = {arm: pair_figures(Path(scratch) / "run", summary, arm) for arm in ARMS}
            found.append((summary, pairs))
        print(f"quickstart: seed {seed}", flush=True)
    return {"arms": list(ARMS), "single_call_accuracy": ACCURACY, **collect(found)}


def collect(found: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Tables over seeds."""
    measures = [m for m in ("accuracy", "greedy") if found[0][0][m]]
    values = {m: {arm: [s[m][arm]["mean"] for s, _ in found] for arm in ("base", *ARMS)} for m in measures}
    against = {
        f"ipr - {arm}": {
            m: over_seeds([a - b for a, b in zip(values[m]["ipr"], values[m][arm], strict=True)])
            for m in measures
        }
        for arm in ("base", "verify", "score")
    }
    pairs = {
        arm: {name: over_seeds([p[arm][name] for _, p in found]) for name in found[0][1][arm]} for arm in ARMS
    }
    table = {m: {arm: over_seeds(v) for arm, v in by_arm.items()} for m, by_arm in values.items()}
    return {**table, "differences": against, "pairs": pairs}


def pair_figures(root: Path, summary: dict[str, Any], arm: str) -> dict[str, float]:
    """Number of pairs, and the shares that are right against wrong, of equals, and inverted."""
    folders = summary["folders"][arm]
    flags = {
        row["id"]: bool(row["is_correct"])
        for row in rows_of(read_table(sorted((root / folders["judge"]).glob("part-*.parquet"))))
    }
    pairs = rows_of(read_table(sorted((root / folders["rank"]).glob("part-*.parquet"))))
    signs = [flags[pair["chosen_id"]] - flags[pair["rejected_id"]] for pair in pairs]
    names = {"right": 1, "equal": 0, "inverted": -1}
    return {
        "pairs": float(len(pairs)),
        **{n: sum(s == sign for s in signs) / len(signs) for n, sign in names.items()},
    }
