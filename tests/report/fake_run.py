"""Run folders without a model: made-up answers and log-probs through the real stages, manifests and summary."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import BY_NAME
from prefopt.report.summary import summarize
from prefopt.stages.evaluate.figures import against, pair_figures, sample_figures
from prefopt.stages.judge.judge import STAGE as JUDGE
from prefopt.stages.rank.rank import STAGE as RANK
from prefopt.stages.running import Done
from prefopt.stages.select.select import STAGE as SELECT
from prefopt.stages.stage import Stage
from prefopt.stages.weight.weight import STAGE as WEIGHT
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import Row, make_table, write_json

ARMS: dict[str, dict[str, Any]] = {
    "sft": {"select": {"rule": "all"}, "weight": {"scheme": "uniform"}, "train": {"loss": [{"name": "nll"}]}},
    "dpo": {"select": {"rule": "all"}, "weight": {"scheme": "uniform"}, "train": {"loss": [{"name": "dpo"}]}},
    "full": {},
}
SKILL = {"base": 0.42, "sft": 0.66, "dpo": 0.57, "full": 0.71, "main": 0.6}
GREEDY = {"base": 0.95, "sft": 0.93, "dpo": 0.86, "full": 0.92, "main": 0.9}
DRIFT = {"sft": 1.6, "dpo": -3.2, "full": 0.9, "main": 0.4}


def make_run(
    folder: Path,
    *,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    samples: int = 8,
    prompts: int = 60,
    tests: int = 120,
    pairs_only: bool = False,
    tiny: bool = False,
    drop_stages: tuple[str, ...] = (),
    hostile: str = "",
    weight: Mapping[str, Any] | None = None,
    judge: Mapping[str, Any] | None = None,
) -> Path:
    """Write a finished run and return its folder. `hostile` is put into prompts, answers, ids and reasons.

    judge: the pairs come from comparisons by this judge.
    """
    loss = [{"name": "dpo", "beta": 0.1}, {"name": "nll"}, {"name": "budget", "delta": 0.0, "scale": 0.2}]
    settings: dict[str, Any] = {
        "name": "quickstart",
        "about": "A base model that imitates writers of mixed quality learns from its own verified answers."
        + hostile,
        "model": "tiny" if tiny else "builtin:quickstart/base",
        "data": {"path": "builtin:quickstart/train.jsonl", "heldout": 0.2},
        "select": {"rule": "top", "fraction": 0.5},
        "weight": dict(weight or {"scheme": "difficulty"}),
        "train": {"loss": loss, "learning_rate": 3e-4},
        "arms": {name: dict(over) for name, over in arms.items()},
    }
    settings |= dict.fromkeys(drop_stages)
    recipe = Recipe.model_validate(settings)
    home = _Home(folder, random.Random(7), hostile, judge)
    chains, evaluated = home.chains(recipe, samples, prompts, tests, pairs_only)
    summary = summarize(folder, recipe, chains, evaluated, 104.2)
    write_json(folder / "summary.json", summary)
    return folder


class _Home:
    def __init__(
        self, folder: Path, rng: random.Random, hostile: str, judge: Mapping[str, Any] | None
    ) -> None:
        self.folder, self.rng, self.hostile, self.judge = folder, rng, hostile, judge

    def finish(
        self, stage: Stage, output: StageOutput, home: str = "", rows_in: int | None = None, **config: Any
    ) -> Done:
        target = StageFolder(self.folder / home / stage.folder_name)
        target.timings.append({"what": "stage", "seconds": 1.0 + stage.number})
        about = {
            "key": f"{stage.number:064d}",
            "config": config,
            "seed": 1234 + stage.number,
            "rows_in": rows_in,
        }
        target.finish(stage.name, output, about)
        return Done(f"{stage.number:064d}", target)

    def chains(
        self, recipe: Recipe, samples: int, prompts: int, tests: int, pairs_only: bool
    ) -> tuple[dict[str, dict[str, Done]], dict[str, Done]]:
        shared, pairs = self.upstream(prompts, samples, pairs_only)
        names = list(recipe.arms) or ["main"]
        chains: dict[str, dict[str, Done]] = {}
        for name in names:
            home = "" if name == names[-1] else f"arms/{name}"
            chains[name] = dict(shared) | self.arm(name, recipe, pairs, home, recipe.arms.get(name, {}))
        if recipe.evaluate is None:
            return chains, {}
        held = [row for row in pairs if row["split"] == "eval"]
        before = self.evaluate("base", [] if pairs_only else self.questions(tests), held, "arms/base", None)
        evaluated = {"base": before}
        for name in names:
            home = "" if name == names[-1] else f"arms/{name}"
            evaluated[name] = self.evaluate(
                name, [] if pairs_only else self.questions(tests), held, home, before
            )
        return chains, evaluated

    def questions(self, count: int) -> list[tuple[str, int]]:
        rng = random.Random(3)
        found = []
        for _ in range(count):
            a, b, c = rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 9)
            found.append((f"{a}+{b}-{c}", a + b - c))
        return found

    def write_answer(self, question: str, gold: int, right: bool) -> str:
        a, rest = question.split("+")
        b, c = rest.split("-")
        wrong = gold + self.rng.choice([-10, -1, 1, 2, 7])
        middle = int(a) + int(b)
        return f"{question.rsplit('-', 1)[0]}={middle};{middle}-{c}={gold if right else wrong}\nA: {gold if right else wrong}"

    def upstream(self, prompts: int, samples: int, pairs_only: bool) -> tuple[dict[str, Done], list[Row]]:
        rows = []
        for k, (question, gold) in enumerate(self.questions(prompts)):
            skill = min(0.98, max(0.02, self.rng.gauss(0.45, 0.3)))
            for i in range(samples):
                right = self.rng.random() < skill
                rows.append({
                    "id": f"p{k}-{i}", "prompt_id": f"p{k}", "prompt": [{"role": "user", "content": question}],
                    "split": "eval" if k % 5 == 0 else "train", "gold": str(gold), "completion_index": i,
                    "completion": self.hostile + self.write_answer(question, gold, right), "model": "base",
                    "finish_reason": "stop", "completion_tokens": 30, "seed": 5,
                })  # fmt: skip
        table = make_table(rows)
        judged = JUDGE.run(table, JUDGE.config(), Context())
        place = StageFolder(self.folder / RANK.folder_name)
        place.begin("ranked")
        config = RANK.config.model_validate({"judge": self.judge} if self.judge else {})
        ranked = RANK.run(judged.table, config, Context(folder=place))
        from prefopt.tables.records import rows_of

        pairs = rows_of(ranked.table)
        for row in pairs:
            c, r = self.rng.randint(20, 34), self.rng.randint(20, 34)
            pc, pr = self.rng.gauss(0.28, 0.08), self.rng.gauss(0.36, 0.12)
            row |= {"ref_chosen_logps": -abs(pc) * c, "ref_rejected_logps": -abs(pr) * r, "chosen_tokens": c,
                    "rejected_tokens": r, "truncated": False}  # fmt: skip
        kind = "pairs" if pairs_only else "prompts"
        drops = {"empty answer": 3, f"prompt is no text{self.hostile}": 2}
        first = (
            make_table(pairs)
            if pairs_only
            else make_table([row for row in rows if row["completion_index"] == 0])
        )
        quality = {
            "kind": kind,
            "rows_in": first.num_rows + 5,
            "heldout_rows": sum(split == "eval" for split in first["split"]),
        }
        done = {
            "data": self.finish(
                BY_NAME["data"], StageOutput(first, drops, quality), rows_in=first.num_rows + 5
            )
        }
        if pairs_only:
            for stage in (BY_NAME["sample"], JUDGE, RANK):
                write_json(
                    self.folder / f"{stage.folder_name}.skipped.json",
                    {"stage": stage.name, "skipped": "the input holds pairs"},
                )
        else:
            done["sample"] = self.finish(BY_NAME["sample"], StageOutput(table), rows_in=first.num_rows)
            done["judge"] = self.finish(JUDGE, judged, rows_in=table.num_rows)
            done["rank"] = self.finish(RANK, ranked, rows_in=table.num_rows)
        done["reference"] = self.finish(
            BY_NAME["reference"], StageOutput(make_table(pairs)), rows_in=len(pairs)
        )
        return done, pairs

    def arm(
        self, name: str, recipe: Recipe, pairs: list[Row], home: str, over: Mapping[str, Any]
    ) -> dict[str, Done]:
        done: dict[str, Done] = {}
        table = make_table(pairs)
        for stage in (SELECT, WEIGHT):
            base = getattr(recipe, stage.name)
            if base is None:
                write_json(
                    self.folder / f"{stage.folder_name}.skipped.json",
                    {"stage": stage.name, "skipped": "set to null in the recipe"},
                )
                continue
            config = stage.config.model_validate(
                {**base.model_dump(exclude_unset=True), **over.get(stage.name, {})}
            )
            if stage is SELECT and config.rule == "all":
                config = stage.config(rule="all")
            output = stage.run(table, config, Context(seed=1))
            done[stage.name] = self.finish(
                stage, output, home, table.num_rows, **config.model_dump(mode="json")
            )
            table = output.table
        if recipe.train is not None:
            done["train"] = self.train(name, recipe, table, home, over)
        return done

    def train(self, name: str, recipe: Recipe, table: Any, home: str, over: Mapping[str, Any]) -> Done:
        config = recipe.train
        assert config is not None
        config = type(config).model_validate(
            {**config.model_dump(exclude_unset=True), **over.get("train", {})}
        )
        rows: list[Row] = []
        nll = all(term.loss.name == "nll" for term in config.loss_sum.terms)
        for step in range(0, 101, 2):
            t = step / 100
            noise = lambda scale: self.rng.gauss(0, scale)  # noqa: E731
            margin = (0.25 if nll else 2.6) * (1 - math.exp(-3 * t)) + noise(0.08)
            chosen = DRIFT[name] * 0.1 * t + noise(0.02)
            row: Row = {
                "step": step,
                "epoch": t,
                "loss": (9.0 if nll else 0.69) * (1 - 0.4 * t) + noise(0.03),
            }
            row |= {"rewards/chosen": chosen, "rewards/rejected": chosen - margin, "rewards/margins": margin,
                    "rewards/accuracies": min(1.0, 0.5 + 0.4 * t + noise(0.03)), "logps/chosen": -8 + chosen * 10,
                    "logps/chosen_drift": 10 * chosen, "grad_norm": 2 + noise(0.3), "learning_rate": 3e-4}  # fmt: skip
            if step == 0:
                row |= {"step0/loss": 0.6931, "step0/reward_max": 2.3e-6, "step0/passed": 1.0}
            if step % 50 == 0:
                row |= {"eval_loss": row["loss"], "eval_rewards/margins": margin * 0.8,
                        "eval_logps/chosen_drift": 9 * chosen, "eval_rewards/accuracies": 0.5 + 0.3 * t}  # fmt: skip
            rows.append(row)
        train = sum(row == "train" for row in table["split"])
        quality = {"pairs": train, "eval_pairs": table.num_rows - train, "steps": 100, "loss": config.loss_sum.describe(),
                   "warnings": [], "final": {}}  # fmt: skip
        return self.finish(
            BY_NAME["train"], StageOutput(make_table(rows), {}, quality), home, table.num_rows,
            **config.model_dump(mode="json"),
        )  # fmt: skip

    def evaluate(
        self, name: str, questions: list[tuple[str, int]], held: list[Row], home: str, before: Done | None
    ) -> Done:
        rows = [
            self.answer_row(name, k, question, gold, mode)
            for mode in ("sampled", "greedy")
            for k, (question, gold) in enumerate(questions)
        ]
        for row in held:
            drift = DRIFT.get(name, 0.0)
            change = 0.0 if name == "base" else self.rng.gauss(drift, 1.0)
            lower = 0.0 if name == "base" else self.rng.gauss(drift - 4, 2.0)
            kept = {c: row[c] for c in ("id", "prompt_id", "prompt", "chosen", "rejected", "ref_chosen_logps",
                                        "ref_rejected_logps", "chosen_tokens", "rejected_tokens")}  # fmt: skip
            rows.append({**kept, "kind": "pair", "mode": None, "chosen_logps": row["ref_chosen_logps"] + change,
                         "rejected_logps": row["ref_rejected_logps"] + lower})  # fmt: skip
        counts = {"test_prompts": len(questions), "heldout_pairs": len(held)}
        quality: dict[str, Any] = {**counts, **sample_figures(rows), "pairs": pair_figures(rows)}
        if before is not None:
            from prefopt.tables.records import rows_of

            quality["against_before"] = against(rows_of(before.folder.table()), rows)
        return self.finish(BY_NAME["evaluate"], StageOutput(make_table(rows), {}, quality), home, len(held))

    def answer_row(self, name: str, k: int, question: str, gold: int, mode: str) -> Row:
        right = self.rng.random() < (SKILL if mode == "sampled" else GREEDY)[name]
        text = self.hostile + self.write_answer(question, gold, right)
        return {
            "kind": "sample", "mode": mode, "id": f"t{k}-{mode}-0", "prompt_id": f"t{k}", "gold": str(gold),
            "prompt": [{"role": "user", "content": question + self.hostile}], "completion": text, "completion_index": 0,
            "answer": "1", "is_correct": right, "finish_reason": "stop", "completion_tokens": len(text),
        }  # fmt: skip
