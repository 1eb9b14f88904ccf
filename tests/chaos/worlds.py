"""A small world that every attempt starts from: data files, a tiny model, and the chain of stages run once, undisturbed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.driving import Host, Outcome

BASE = "builtin:quickstart/base"
PROMPTS = "builtin:quickstart/train.jsonl"
SHORT = ["--max_new_tokens", "20", "--batch_size", "16"]
STEPS = ["--pairs_per_step", "4", "--pairs_per_micro_batch", "2", "--logging_steps", "1", "--save_steps", "1"]
# name -> the command without its output; {w} is the world's folder. Later ones read what earlier ones wrote
CHAIN: dict[str, list[str]] = {
    "data": ["data", "--input", PROMPTS, "--limit", "16", "--heldout", "0.25"],
    "sample": ["sample", "--input", "{w}/data", "--model", BASE, "--n", "4", "--temperature", "1.0", "--max_new_tokens",
               "24", "--batch_size", "16"],
    "judge": ["judge", "--input", "{w}/sample"],
    "rank": ["rank", "--input", "{w}/judge"],
    "reference": ["reference", "--input", "{w}/rank", "--model", BASE],
    "select": ["select", "--input", "{w}/reference", "--rule", "top", "--fraction", "0.8"],
    "weigh": ["weigh", "--input", "{w}/select"],
    "train": ["train", "--input", "{w}/weigh", "--model", BASE, "--steps", "4", *STEPS],
    "evaluate": ["evaluate", "--input", "{w}/reference", "--model", "{w}/train/model", *SHORT],
}  # fmt: skip
# further ones, each on the chain's results
MORE: dict[str, list[str]] = {
    "data pairs": ["data", "--input", "{w}/pairs.jsonl", "--heldout", "0.2"],
    "rank judged": ["rank", "--input", "{w}/judge", "--judge", "simulated", "--strategy", "round_robin"],
    "reference pairs": ["reference", "--input", "{w}/pairs.jsonl", "--model", BASE],
    "train lora": ["train", "--input", "{w}/weigh", "--model", BASE, "--steps", "3", *STEPS, "--lora.r", "2", "--lora.merge", "false",
                   "--keep", "best",
                   "--eval_steps", "1"],
    "train kto": ["train", "--input", "{w}/weigh", "--model", BASE, "--steps", "2", *STEPS, "--loss", "kto"],
    "reward": ["train-reward", "--input", "{w}/rank", "--model", BASE, "--steps", "3", "--pairs_per_step", "4",
               "--save_steps", "1", "--heldout", "0.2"],
    "check": ["check", "{w}/pairs.jsonl"],
    "judge-check": ["judge-check", "--input", "{w}/pairs.jsonl", "--judge", "simulated"],
}  # fmt: skip

RUN = """
name: whole
model: {model}
data: {{path: "builtin:quickstart/train.jsonl", limit: 16, heldout: 0.25}}
sample: {{n: 4, temperature: 1.0, top_p: 1.0, max_new_tokens: 24, batch_size: 32}}
select: {{rule: top, fraction: 0.8}}
train: {{loss: [{{name: dpo, beta: 0.1}}], learning_rate: 1.0e-4, steps: 2, pairs_per_step: 4, pairs_per_micro_batch: 2,
         save_steps: 1, logging_steps: 1}}
evaluate: {{data: {{path: "builtin:quickstart/tuning.jsonl", limit: 4, heldout: 0.0}}, max_new_tokens: 16, batch_size: 8}}
"""
ARMS = "arms:\n  plain: {weight: {scheme: uniform}, train: {steps: 1}}\n  full: {}\n"
ROUNDS = "rounds: 2\n"
RECIPES = {"whole": "", "arms": ARMS, "rounds": ROUNDS}


@dataclass(frozen=True)
class World:
    """root: its folder. host: runs commands. Reference results lie in `root / NAME` of the chain and in `root / "run-NAME"`."""

    root: Path
    host: Host

    def argv(self, name: str) -> list[str]:
        """The command of the chain or of `MORE`, without an output."""
        if name in RECIPES:
            return ["run", str(self.root / f"{name}.yaml")]
        return [word.replace("{w}", str(self.root)) for word in (CHAIN | MORE)[name]]

    def reference(self, name: str) -> Path:
        """The folder of the undisturbed result; made on the first demand."""
        place = self.root / (name if name in CHAIN else f"run-{name}".replace(" ", "-"))
        if not place.exists():
            self.make(name, place)
        return place

    def make(self, name: str, place: Path) -> Outcome:
        outcome = self.host.warm([*self.argv(name), "--output", str(place)], self.root, timeout_s=300)
        assert outcome.code == 0, outcome.shown() + outcome.stderr
        return outcome


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Pairs as a user has them."""
    return [
        {
            "prompt": f"What is {i} plus {i % 7}?",
            "chosen": f"It is {i + i % 7}.",
            "rejected": f"Maybe {i + 1 + i % 5}?",
        }
        for i in range(count)
    ]


def talk_rows(count: int) -> list[dict[str, Any]]:
    """Pairs as conversations, in characters that the quickstart model knows."""
    said = [("1+1=", "2", "3"), ("2+1=", "3", "4"), ("3+1=", "4", "5"), ("4+1=", "5", "6")]
    return [
        {
            "prompt": [{"role": "user", "content": f"{i % 9 + 1}+{said[i % 4][0]}"}],
            "chosen": [{"role": "assistant", "content": said[i % 4][1]}],
            "rejected": [{"role": "assistant", "content": said[i % 4][2]}],
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build_world(root: Path, host: Host) -> World:
    """Make the world's files and run the chain once."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    write_jsonl(root / "pairs.jsonl", pair_rows(24))
    write_jsonl(root / "talk.jsonl", talk_rows(8))
    for name, more in RECIPES.items():
        (root / f"{name}.yaml").write_text(RUN.format(model=BASE) + more, encoding="utf-8")
    world = World(root, host)
    for name in CHAIN:
        world.reference(name)
    return world
