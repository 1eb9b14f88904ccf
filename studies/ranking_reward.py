"""Part `reward` of the ranking study: trained judges on their own domain and on others, pairwise against scalar.

From the same pairs of one domain a scalar reward model and a pairwise model are trained (two random layers of width 64 each, so
this is about transfer between domains, not about what large models can do). Both then rank five answers per prompt of held-out
prompts of that domain and of the other domains. Truth is the recorded verdict: human majority (PandaLM), or the GPT-4 judge's
preferences over the hub (AlpacaEval v2, TL;DR). A pair is inverted when its chosen answer stands below its rejected one, and
equal when they stand level.
"""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ranking_parts import interval, truth_of
from ranking_recorded import outcomes_of
from reward_domains import small_base

from prefopt.judges import Comparison, PairwiseJudge, PairwiseJudgeConfig, Verdict, open_judge
from prefopt.judges.recorded import RecordedJudge
from prefopt.judges.reward_model import RewardScorer
from prefopt.judges.simulated import uniforms
from prefopt.rules.order import hash_order
from prefopt.rules.tournament import ipr, most_comparisons, round_robin
from prefopt.stages.rank.comparer import Comparer, Contest, flipped
from prefopt.stages.rank.pairs import Tally, groups_of
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, digest, make_table
from prefopt.tools.reward.settings import RewardConfig
from prefopt.tools.reward.train_reward import train_reward

TRAINED = {"tldr": "tldr/preference.jsonl.gz", "alpaca_eval": "alpaca_eval/preference_v2.jsonl.gz"}
READ = {
    "tldr": ("tldr/completions.jsonl.gz", None, True),
    "alpaca_eval": ("alpaca_eval/completions.jsonl.gz", "weighted_alpaca_eval_gpt4_turbo", True),
    "pandalm": ("pandalm/completions.jsonl", None, False),
}
PAIRS, PROMPTS, ANSWERS = 1000, 80, 5
PROMPT_CHARS, ANSWER_CHARS = 150, 500
LENGTH = {"scalar": 320, "pairwise": 512}  # tokens
HELD_OUT = 0.25
SETTINGS = {
    "learning_rate": 2e-3, "epochs": 2, "pairs_per_step": 32, "pairs_per_micro_batch": 16, "eval_steps": None,
    "weight_decay": 0.1,
}  # fmt: skip


def held_out(prompt_id: str) -> bool:
    """A share of the prompts by hash, the same for training and reading."""
    return int(digest("ranking study", prompt_id)[:8], 16) / 2**32 < HELD_OUT


def training_rows(data: Path, domain: str, seed: int, most: int) -> list[Row]:
    """Pairs of a domain, drawn by seed; those of held-out prompts are the eval split."""
    text = gzip.decompress((data / TRAINED[domain]).read_bytes()).decode()
    rows = []
    for number, line in enumerate(text.splitlines()):
        pair = json.loads(line)
        sides = {side: pair[side][:ANSWER_CHARS] for side in ("chosen", "rejected")}
        if sides["chosen"].strip() == sides["rejected"].strip() or not all(s.strip() for s in sides.values()):
            continue
        split = "eval" if held_out(pair["prompt_id"]) else "train"
        prompt = pair["prompt"][-PROMPT_CHARS:]
        rows.append({"id": f"{domain}-{number}", "prompt_id": pair["prompt_id"], "prompt": prompt, "split": split, **sides})  # fmt: skip
    rows.sort(key=lambda row: digest(seed, row["id"]))
    return rows[:most]


@functools.cache
def read_rows(path: Path) -> list[Row]:
    """Completions of a tournament file."""
    from prefopt.stages.alone import open_input
    from prefopt.tables.records import rows_of

    return rows_of(open_input(str(path), Context()).table)


def contests_of(data: Path, domain: str, *, only_held_out: bool, prompts: int) -> list[tuple[Contest, Any]]:
    """Contests of five answers drawn by hash, with their truth; texts cut as for training."""
    file, source, hub = READ[domain]
    rows = read_rows(data / file)
    judge = RecordedJudge(source, hub=hub)
    judge.check(rows)
    found = []
    for group in groups_of(rows, None, Tally(Context())):
        if len(group.rows) < 3 or (only_held_out and not held_out(group.prompt_id)):
            continue
        order = hash_order([row["id"] for row in group.rows], 0, "answers")[:ANSWERS].tolist()
        kept = [group.rows[i] for i in sorted(order)]
        cut = [{**row, "prompt": row["prompt"][-PROMPT_CHARS:], "completion": row["completion"][:ANSWER_CHARS]} for row in kept]  # fmt: skip
        known = outcomes_of(judge, kept)
        found.append((Contest(group.prompt_id, cut[0]["prompt"], cut), truth_of(len(kept), known)))
    found.sort(key=lambda pair: digest("draw", pair[0].prompt_id))
    return found[:prompts]


class OneCall:
    """A judge asked once per pair, in an order drawn by hash."""

    both_orders = False
    cacheable = False

    def __init__(self, judge: PairwiseJudge) -> None:
        self.judge, self.name, self.averages = judge, f"{judge.name}, one call", judge.averages

    def compare(self, batch: Sequence[Comparison], seed: int) -> list[Verdict]:
        """Verdicts as if asked in the order given."""
        turned = [
            uniforms(call.prompt_id, str(call.first["id"]), str(call.second["id"]))[0] < 0.5 for call in batch
        ]
        asked = [
            replace(c, first=c.second, second=c.first) if t else c for c, t in zip(batch, turned, strict=True)
        ]
        verdicts = self.judge.compare(asked, seed)
        return [flipped(v) if t else v for v, t in zip(verdicts, turned, strict=True)]

    def describe(self) -> dict[str, Any]:
        """The judge's own."""
        return self.judge.describe()


def train(
    kind: str, rows: Sequence[Row], folder: Path, seed: int, settings: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Train one judge; its directory and held-out figures."""
    base = small_base([row for row in rows if row["split"] == "train"], folder / f"{kind}-base", seed)
    config = RewardConfig(kind=kind, max_length=LENGTH[kind], **settings)  # type: ignore[arg-type]
    place = StageFolder(folder / kind)
    output = train_reward(make_table(rows), config, Context(seed=seed, model=base, folder=place))
    return place.path / "model", {k: output.quality.get(k) for k in ("heldout_accuracy", "ece")}


def picks(
    scorers: Sequence[RewardScorer], judge: PairwiseJudge, contests: Sequence[Contest], seed: int
) -> dict[str, Any]:
    """Scheme -> (best, worst, calls, has a pair) per contest."""
    scores = [np.zeros(len(c.rows)) for c in contests]
    single = scores
    for number, scorer in enumerate(scorers):
        flat = iter(scorer.scores([row for contest in contests for row in contest.rows]))
        scores = [s + np.array([float(next(flat)) for _ in s]) for s in scores]
        single = scores if number == 0 else single
    lengths = [np.array([len(row["completion"]) for row in contest.rows]) for contest in contests]
    found = {
        "longest against shortest": [(int(v.argmax()), int(v.argmin()), 0, True) for v in lengths],
        "scalar": [(int(v.argmax()), int(v.argmin()), len(v), True) for v in single],
        "scalar, mean of two models": [(int(v.argmax()), int(v.argmin()), 2 * len(v), True) for v in scores],
    }
    for name, asked, strategy in (
        ("pairwise, ipr, one call per comparison", OneCall(judge), ipr),
        ("pairwise, ipr", judge, ipr),
        ("pairwise, round robin", judge, round_robin),
    ):
        comparer = Comparer(asked, seed=seed)
        orders = [hash_order([r["id"] for r in c.rows], seed, c.prompt_id).tolist() for c in contests]
        most = "ipr" if strategy is ipr else "round_robin"
        played = comparer.run(
            contests, lambda k, s=strategy, o=orders: s(o[k]), lambda n, m=most: most_comparisons(m, n)
        )
        found[name] = [
            (game.final.best, game.final.worst, len(game.outcomes) * comparer.orders, not game.final.reason)
            for game in played
            if game.final is not None
        ]
    return found


def run_reward(seeds: int, data: Path, *, small: bool = False) -> dict[str, Any]:
    """trained on -> read on -> scheme -> figures with intervals over prompts (means over training seeds)."""
    pairs, prompts = (64, 8) if small else (PAIRS, PROMPTS)
    settings = {k: v for k, v in SETTINGS.items() if k != "epochs"} | {"steps": 2} if small else SETTINGS
    results: dict[str, Any] = {}
    for domain in TRAINED:
        readings = {
            name: contests_of(data, name, only_held_out=name == domain, prompts=prompts) for name in READ
        }
        gathered: dict[str, list[dict[str, Any]]] = {name: [] for name in READ}
        quality = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as scratch:
                rows = training_rows(data, domain, seed, pairs)
                scorers = []
                for copy in range(2):
                    path, figures = train(
                        "scalar", rows, Path(scratch) / str(copy), 2 * seed + copy, settings
                    )
                    scorers.append(RewardScorer(path, batch_size=32, max_length=LENGTH["scalar"]))
                    quality.append({"kind": "scalar", "seed": 2 * seed + copy, **figures})
                path, figures = train("pairwise", rows, Path(scratch), seed, settings)
                quality.append({"kind": "pairwise", "seed": seed, **figures})
                config = PairwiseJudgeConfig.model_validate({"kind": "pairwise_model", "model": str(path), "batch_size": 32, "max_length": LENGTH["pairwise"]})  # fmt: skip
                judge = open_judge(config, Context())
                for name, reading in readings.items():
                    gathered[name].append(picks(scorers, judge, [contest for contest, _ in reading], seed))
            print(f"reward: {domain}, seed {seed}", flush=True)
        results[domain] = {
            "heldout": quality,
            "read_on": {
                name: {"prompts": len(readings[name]), **figures_of([t for _, t in readings[name]], found)}
                for name, found in gathered.items()
            },
        }
    return {
        "pairs": pairs,
        "answers": ANSWERS,
        "settings": {**settings, "max_length": LENGTH},
        "trained_on": results,
    }


def figures_of(truths: Sequence[Any], by_seed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scheme -> share of inverted and of level pairs among those made, winner found, pairs per prompt, calls."""
    table = {}
    for scheme in by_seed[0]:
        values: dict[str, list[list[float]]] = {m: [[] for _ in truths] for m in ("inverted", "level", "winner", "pairs", "calls")}  # fmt: skip
        for found in by_seed:
            for at, ((best, worst, calls, has_pair), truth) in enumerate(
                zip(found[scheme], truths, strict=True)
            ):
                values["winner"][at].append(float(best in truth.best))
                values["pairs"][at].append(float(has_pair))
                values["calls"][at].append(float(calls))
                if has_pair:
                    values["inverted"][at].append(float(truth.score[best] < truth.score[worst]))
                    values["level"][at].append(float(truth.score[best] == truth.score[worst]))
        table[scheme] = {measure: interval(rows) for measure, rows in values.items()}
    return table
