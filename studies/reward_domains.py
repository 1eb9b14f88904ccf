"""What a scalar reward model is worth on its own domain and on others: accuracy, calibration, liking for length.

    python studies/reward_domains.py --data DIR --json studies/results/reward_domains.json

For each domain and seed a random transformer of two layers and width 64 is trained on pairs of that domain (Bradley-Terry) and read on held-out prompts of the same domain and on pairs of all others. Prompts are cut to their last
`PROMPT_CHARS` characters, so that long ones fit. Such a model knows no language but what the pairs teach it; the figures
are about transfer, not about what large reward models can do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.judges.prompt import prompt_text
from prefopt.judges.reward_model import RewardScorer, sigmoid
from prefopt.rules.content import text_of
from prefopt.rules.intervals import share_interval
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import Row, digest, make_table, write_json
from prefopt.tools.reward.calibration import calibration
from prefopt.tools.reward.settings import RewardConfig
from prefopt.tools.reward.train_reward import train_reward

DOMAINS = {
    "hh_helpful": "hh_helpful/preference.jsonl.gz",
    "tldr": "tldr/preference.jsonl.gz",
    "pandalm": "pandalm/preference.jsonl",
    "llmbar": "llmbar/preference.jsonl",
}
TRAINED = ("hh_helpful", "tldr")  # the others are too small to train on
PROMPT_CHARS = 150
MAX_LENGTH = 192
HELD_OUT = 0.25
SETTINGS = RewardConfig(
    learning_rate=2e-3, epochs=2, pairs_per_step=32, pairs_per_micro_batch=16, max_length=MAX_LENGTH, eval_steps=None,
    weight_decay=0.1,
)  # fmt: skip


def read_domain(data: Path, domain: str, most: int, seed: int = 0) -> list[Row]:
    """At most `most` pairs of a domain (drawn by hash and seed), split into train and eval by their prompts."""
    path = data / DOMAINS[domain]
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    pairs = [json.loads(line) for line in text.decode().splitlines()]
    rows = []
    for number, pair in enumerate(pairs):
        prompt = prompt_text(pair["prompt"])
        rows.append({
            "id": f"{domain}-{number}",
            "prompt_id": digest(domain, prompt)[:16],
            "prompt": prompt[-PROMPT_CHARS:],
            "chosen": text_of(pair["chosen"]),
            "rejected": text_of(pair["rejected"]),
        })  # fmt: skip
    rows.sort(key=lambda row: digest(seed, row["id"]))
    rows = rows[:most]
    for row in rows:
        share = int(digest("split", seed, row["prompt_id"])[:8], 16) / 2**32
        row["split"] = "eval" if share < HELD_OUT else "train"
    return rows


def small_base(rows: Sequence[Row], folder: Path, seed: int) -> Path:
    """A random causal model with a tokenizer of the rows' texts, as a directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from prefopt.models.quiet import no_bars
    from prefopt.models.tiny import make_tokenizer

    tokenizer = make_tokenizer([row[name] for row in rows for name in ("prompt", "chosen", "rejected")], 2048)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=172, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, bos_token_id=None, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), no_bars():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_on(rows: Sequence[Row], folder: Path, seed: int = 0) -> RewardScorer:
    """A scalar reward model trained on the rows of split train, from a random model, in `folder`."""
    base = small_base([row for row in rows if row["split"] == "train"], folder / "base", seed)
    train_reward(
        make_table(rows), SETTINGS, Context(seed=seed, model=base, folder=StageFolder(folder / "reward"))
    )
    return RewardScorer(folder / "reward" / "model", batch_size=32, max_length=MAX_LENGTH)


def accuracy_on(scorer: RewardScorer, rows: Sequence[Row]) -> dict[str, Any]:
    """Share of pairs whose chosen answer has the higher reward, calibration, and what length says."""
    sides = [{"prompt": r["prompt"], "completion": r[side]} for r in rows for side in ("chosen", "rejected")]
    rewards = np.array(scorer.scores(sides), dtype=np.float64).reshape(-1, 2)  # None becomes NaN
    known = np.isfinite(rewards).all(1)
    kept = [row for row, fits in zip(rows, known, strict=True) if fits]
    difference = rewards[known, 0] - rewards[known, 1]
    longer = np.array([len(r["chosen"]) - len(r["rejected"]) for r in kept])
    groups = [row["prompt_id"] for row in kept]
    figures = calibration([sigmoid(d) for d in difference])
    return {
        "pairs": len(kept),
        "not_scored": int((~known).sum()),
        "accuracy": share_interval(_half(difference), groups),
        "ece": figures["ece"],
        "longer_accuracy": share_interval(_half(longer), groups),
        "prefers_longer": share_interval(_half(difference * longer), groups),
    }


def _half(values: np.ndarray) -> list[float]:
    return np.where(values == 0, 0.5, values > 0).astype(float).tolist()


def study(data: Path, seeds: Sequence[int], most: int) -> dict[str, Any]:
    """trained on -> seed -> read on -> figures."""
    found: dict[str, Any] = {}
    for domain in TRAINED:
        for seed in seeds:
            tables = {name: read_domain(data, name, most, seed) for name in DOMAINS}
            with tempfile.TemporaryDirectory() as folder:
                scorer = train_on(tables[domain], Path(folder), seed)
                for name, rows in tables.items():
                    read = [row for row in rows if name != domain or row["split"] == "eval"]
                    found.setdefault(domain, {}).setdefault(str(seed), {})[name] = accuracy_on(scorer, read)
    return found


def show(found: dict[str, Any]) -> None:
    """The table, one line per domain pair and seed."""
    print(
        "| trained on | seed | read on | pairs | accuracy [95%] | ECE | longer is better | prefers longer |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for domain, by_seed in found.items():
        for seed, by_name in by_seed.items():
            for name, f in by_name.items():
                a = f["accuracy"]
                print(
                    f"| {domain} | {seed} | {name} | {f['pairs']} | {a['mean']:.3f} [{a['low']:.3f}, {a['high']:.3f}] | "
                    f"{f['ece']:.3f} | {f['longer_accuracy']['mean']:.3f} | {f['prefers_longer']['mean']:.3f} |"
                )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the preference files")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--most", type=int, default=1600, help="pairs of a domain at most")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = study(arguments.data, range(arguments.seeds), arguments.most)
    show(found)
    if arguments.json:
        settings = SETTINGS.model_dump(mode="json") | {"most": arguments.most, "prompt_chars": PROMPT_CHARS}
        write_json(arguments.json, {"settings": settings, "results": found})


if __name__ == "__main__":
    main()
