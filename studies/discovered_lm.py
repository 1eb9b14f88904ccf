"""The discovered losses `quiet` and `sorting` on a language model, beside DPO, ORPO, SLiC-HF and SFT at equal tuning budgets.

    python studies/discovered_lm.py --json studies/results/discovered-lm.json
    python studies/discovered_lm.py --model DIR --pairs FILE --max-length 512 --rate-factor 0.05 --json FILE

Without --pairs: the model's own answers to arithmetic prompts are sampled, verified and paired as the quickstart does, once per
seed. With --pairs: the pairs of a file (each seed draws its own). Of both, the training pairs are spoiled in two ways, with
held-out pairs left as they are: *noisy* (30% exchanged) and *mixed* (of half, the old rejected is the chosen, and another weak
answer of the same prompt the rejected: a wrong one; of a file another rejected one, else a sample of the model).

Every loss is tuned among equally many settings (learning rate times strength; of the discovered ones the scale of x) on one seed
of its own, by verified accuracy of sampled answers to tuning prompts, or, with --pairs, by pair accuracy on held-out pairs
of other prompts than those reported. Reported over the seeds: `accuracy` and `greedy` (test prompts), `pair_accuracy` (held-out
pairs, clean labels, reward against the reference), `chosen_drift` and `rejected_drift` (nats, held-out pairs). `seconds` are those
of the cells. The tables are printed. Cells lie below --runs: a killed study continues.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovered_lm_parts import (
    BASELINES,
    FOUND,
    KINDS,
    MEASURES,
    Candidate,
    candidates,
    spoiled,
    tables,
    weak_of,
)

import prefopt
from prefopt.core.errors import PrefoptError
from prefopt.rules.student import holm, over_seeds
from prefopt.suite.store import read_json
from prefopt.tables.records import Row, digest, rows_of, write_json
from prefopt.tables.versions import versions

BUILTIN = "builtin:quickstart/"
KEPT = ("id", "prompt_id", "prompt", "split", "chosen", "rejected")
COMPARED = ("accuracy", "greedy", "pair_accuracy")
LOSSES = (*FOUND, *BASELINES)


@dataclass(frozen=True)
class Study:
    """What every cell shares: the options, and the prompts that are answered when tuning and when reporting (None: none)."""

    options: argparse.Namespace
    prompts: Mapping[str, Any]

    @property
    def verified(self) -> bool:
        """Whether answers are verified: the built-in prompts have known ones."""
        return self.options.pairs is None

    @property
    def aim(self) -> str:
        """The figure that tuning goes by."""
        return "accuracy" if self.verified else "pair_accuracy"


def main() -> None:
    """Runs what is missing and writes the file."""
    options = parsed()
    limits = {"tuning": options.tuning_prompts, "test": options.test_prompts}
    prompts = {
        use: None
        if options.pairs
        else prefopt.load_dataset(f"{BUILTIN}{use}.jsonl", heldout=0.0, limit=limit)
        for use, limit in limits.items()
    }
    study = Study(options, prompts)
    found = {kind: of_kind(study, kind) for kind in options.kinds.split(",")}
    said = statements(found)
    write_json(options.json, {
        "study": "discovered-lm",
        "settings": shown(options),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": versions(),
        "seconds": round(sum(part.pop("seconds") for part in found.values()), 1),
        "seeds": seeds_of(options),
        "kinds": found,
        "statements": said,
    })  # fmt: skip
    print(tables(found, said))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=f"{BUILTIN}base")
    parser.add_argument("--pairs", type=Path, help="pairs in any form prefopt reads (default: arithmetic)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0..N-1")
    parser.add_argument("--tuning-seed", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=350, help="training prompts (with --pairs: pairs)")
    parser.add_argument("--tuning-prompts", type=int, default=150, help="with --pairs: held-out pairs")
    parser.add_argument("--test-prompts", type=int, default=200, help="with --pairs: held-out pairs")
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rate-factor", type=float, default=1.0, help="of all learning rates")
    parser.add_argument("--runs", type=Path, default=Path("runs/study-discovered-lm"))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    unknown = set(options.kinds.split(",")) - set(KINDS)
    if unknown:
        parser.error(f"--kinds: unknown {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return options


def shown(options: argparse.Namespace) -> dict[str, Any]:
    """The settings without places."""
    places = {"runs", "json"}
    named = {"model", "pairs"}
    return {
        name: Path(value).name if name in named and value and not str(value).startswith("builtin:") else value
        for name, value in vars(options).items()
        if name not in places
    }


def seeds_of(options: argparse.Namespace) -> list[int]:
    """The seeds that are reported on."""
    return list(range(options.seeds))


# ---- pairs


def material(study: Study, seed: int) -> dict[str, list[Row]]:
    """Tables of pairs with the reference's log-probs, by kind. The split decides what a pair is for: train, tuning, eval."""
    options = study.options
    folder = options.runs / "material" / str(seed)
    rows, weak = own_pairs(options, seed, folder) if study.verified else file_pairs(options, seed, folder)
    found = {}
    for kind in options.kinds.split(","):
        bad, share = spoiled(rows, kind, weak, seed)
        table = prefopt.reference(
            [{name: row[name] for name in KEPT} for row in bad], model=options.model, seed=seed,
            output=folder / kind, max_length=options.max_length,
        )  # fmt: skip
        found[kind] = rows_of(table)
        write_json(folder / f"{kind}.json", {"pairs": len(bad), "spoiled": share})
    return found


def own_pairs(options: argparse.Namespace, seed: int, folder: Path) -> tuple[list[Row], dict[str, list[Any]]]:
    """Stages 01 to 03 of the quickstart: pairs of verified answers, and the wrong answers of every prompt."""
    prompts = prefopt.load_dataset(f"{BUILTIN}train.jsonl", heldout=0.14, seed=seed, limit=options.prompts)
    sampled = prefopt.sample(
        prompts, model=options.model, seed=seed, output=folder / "sample", n=8, temperature=1.0,
        max_new_tokens=options.max_new_tokens, batch_size=256,
    )  # fmt: skip
    judged = prefopt.judge(sampled, seed=seed, output=folder / "judge")
    pairs = prefopt.rank(judged, seed=seed, output=folder / "rank", strategy="verify", pairs_per_prompt=4)
    wrong = [
        {"prompt_id": row["prompt_id"], "answer": [{"role": "assistant", "content": row["completion"]}]}
        for row in rows_of(judged)
        if row["is_correct"] is False
    ]
    return rows_of(pairs), weak_of(wrong, "answer")


def file_pairs(
    options: argparse.Namespace, seed: int, folder: Path
) -> tuple[list[Row], dict[str, list[Any]]]:
    """Pairs of the file: a draw of the training ones, the same held-out ones for all seeds; and weak answers of the prompts."""
    rows = rows_of(prefopt.load_dataset(options.pairs, heldout=0.2, seed=0))
    train = [row for row in rows if row["split"] == "train"]
    train = random.Random(f"{seed} pairs").sample(train, min(options.prompts, len(train)))
    prompts = sorted({row["prompt_id"] for row in rows if row["split"] != "train"})
    uses = {prompt: ("eval", "tuning")[k % 2] for k, prompt in enumerate(prompts)}
    held: dict[str, list[Row]] = {"tuning": [], "eval": []}
    for row in rows:
        if row["split"] != "train":
            use = uses[row["prompt_id"]]
            held[use].append({**row, "split": use})
    weak = weak_of(rows, "rejected")
    alone = [row for row in train if len(weak[row["prompt_id"]]) == 1]
    wanted = round(KINDS["mixed"] * len(train)) - (len(train) - len(alone))  # no more than mixed pairs need
    if wanted > 0 and "mixed" in options.kinds:
        sampled = prefopt.sample(
            alone[:wanted], model=options.model, seed=seed, output=folder / "sample", n=1, temperature=1.0,
            max_new_tokens=options.max_new_tokens, batch_size=16,
        )  # fmt: skip
        for row in rows_of(sampled):
            text = row["completion"]
            is_text = isinstance(weak[row["prompt_id"]][0], str)
            weak[row["prompt_id"]].append(text if is_text else [{"role": "assistant", "content": text}])
    return [*train, *held["tuning"][: options.tuning_prompts], *held["eval"][: options.test_prompts]], weak


def mean_x(rows: Sequence[Row]) -> float:
    """Mean over chosen answers of the geometric mean of their tokens' probabilities under the reference."""
    train = [row for row in rows if row["split"] == "train"]
    return statistics.fmean(math.exp(row["ref_chosen_logps"] / row["chosen_tokens"]) for row in train)


# ---- cells


def of_kind(study: Study, kind: str) -> dict[str, Any]:
    """Tuning and figures of all losses on one kind of pairs."""
    options = study.options
    pairs = Tables(study, kind)
    scale = mean_x(pairs.of(options.tuning_seed))
    arms: dict[str, Any] = {}
    seconds = 0.0
    for loss in LOSSES:
        grid = candidates(loss, scale, options.rate_factor)
        tried = [cell(study, pairs, options.tuning_seed, one, "tuning") for one in grid]
        scores = [row[study.aim] for row in tried]
        best = scores.index(max(scores))
        told = [cell(study, pairs, seed, grid[best], "test") for seed in seeds_of(options)]
        seconds += sum(row["seconds"] for row in [*tried, *told])
        arms[loss] = {
            "tuning": [{**one.shown, study.aim: score} for one, score in zip(grid, scores, strict=True)],
            "tuned": grid[best].shown,
            **figures(told),
        }
    base = [cell(study, pairs, seed, None, "test") for seed in seeds_of(options)]
    shares = [read_json(options.runs / "material" / str(s) / f"{kind}.json") for s in seeds_of(options)]
    return {
        "seconds": seconds + sum(row["seconds"] for row in base),
        "spoiled": [share["spoiled"] for share in shares if share],
        "mean_x": scale,
        "arms": {"base": figures(base), **arms},
    }


class Tables:
    """The pairs of one kind by seed, made when they are first asked for."""

    def __init__(self, study: Study, kind: str) -> None:
        self.study, self.kind = study, kind
        self._known: dict[int, list[Row]] = {}

    def of(self, seed: int) -> list[Row]:
        """Rows with the reference's log-probs."""
        if seed not in self._known:
            self._known[seed] = material(self.study, seed)[self.kind]
        return self._known[seed]


def cell(study: Study, pairs: Tables, seed: int, candidate: Candidate | None, use: str) -> dict[str, Any]:
    """Figures of one training (None: of the model as it is), from the folder or made now."""
    options = study.options
    term = None if candidate is None else {**candidate.term, "learning_rate": candidate.learning_rate}
    places = ("runs", "json", "seeds", "kinds")
    settings = {name: str(value) for name, value in vars(options).items() if name not in places}
    key = digest(settings, pairs.kind, seed, term, use)[:16]
    path = options.runs / "cells" / f"{key}.json"
    known = read_json(path)
    if known is not None:
        return known
    started = time.monotonic()
    rows = pairs.of(seed)
    with tempfile.TemporaryDirectory(prefix="prefopt-") as scratch:
        model = options.model if candidate is None else trained(study, rows, seed, candidate, Path(scratch))
        found = measured(study, rows, seed, model, use)
    name = "base" if candidate is None else str(candidate.shown)
    row = {"kind": pairs.kind, "seed": seed, "use": use, "setting": name, **found,
           "seconds": round(time.monotonic() - started, 2)}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)
    return row


def trained(study: Study, rows: Sequence[Row], seed: int, candidate: Candidate, folder: Path) -> Path:
    """Directory of the trained model."""
    options = study.options
    done = prefopt.train(
        [row for row in rows if row["split"] == "train"], model=options.model, seed=seed, output=folder / "train",
        loss=[dict(candidate.term)], learning_rate=candidate.learning_rate, schedule="linear", warmup=0.1,
        steps=options.steps, pairs_per_step=options.pairs_per_step, max_length=options.max_length,
        pairs_per_micro_batch=options.pairs_per_step if study.verified else None,
        eval_steps=None, save_steps=options.steps, save_minutes=None,
    )  # fmt: skip
    assert done.model_path is not None
    return done.model_path


def measured(study: Study, rows: Sequence[Row], seed: int, model: Any, use: str) -> dict[str, Any]:
    """The figures of a model; accuracies are null without prompts."""
    options = study.options
    wanted = "eval" if study.verified or use == "test" else "tuning"
    done = prefopt.evaluate(
        [row for row in rows if row["split"] == wanted], model=model, prompts=study.prompts[use], seed=seed,
        pairs="all", n=int(study.verified), greedy=study.verified, max_new_tokens=options.max_new_tokens,
        max_length=options.max_length,
    )  # fmt: skip
    ranked = done.figures["pairs"]
    means = {name: (done.figures[name] or {}).get("mean") for name in ("accuracy", "greedy")}
    return {
        **means,
        "pair_accuracy": ranked["reward"]["mean"],
        "chosen_drift": ranked["chosen_drift_nats"],
        "rejected_drift": ranked["rejected_drift_nats"],
    }


# ---- figures


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every measure over seeds; those that were not taken are left out."""
    found = {name: over_seeds([row[name] for row in rows]) for name in MEASURES if rows[0][name] is not None}
    return {name: {k: v for k, v in one.items() if k != "p"} for name, one in found.items()}


def statements(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Found loss minus each other arm, paired by seed; p_holm is corrected over all statements on one measure."""
    out = []
    for measure in COMPARED:
        part = []
        for kind, body in found.items():
            arms = body["arms"]
            for loss in FOUND:
                for other in BASELINES:
                    if measure in arms[loss]:
                        own, its = (arms[name][measure]["by_seed"] for name in (loss, other))
                        difference = over_seeds([a - b for a, b in zip(own, its, strict=True)])
                        part.append({"measure": measure, "kind": kind, "loss": loss, "against": other, **difference})  # fmt: skip
        if part and part[0]["p"] is not None:
            for row, p in zip(part, holm([row["p"] for row in part]), strict=True):
                row["p_holm"] = p
        out += part
    return out


if __name__ == "__main__":
    try:
        main()
    except PrefoptError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
