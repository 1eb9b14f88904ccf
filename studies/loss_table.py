"""Every loss of the table on the quickstart model: 50 steps of 16 pairs, the same settings for all, figures on held-out pairs.

    python studies/loss_table.py --json studies/results/loss-table.json [--docs docs/losses.md]

The base model samples answers to the quickstart's training prompts, which are verified and paired; three tenths of the
prompts are held out. One learning rate for every loss: the table shows that each trains and what it does to the chosen answers, not which
is best. `--docs` writes the table between the markers of that file.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from prefopt.losses import LOSSES, build_loss, export_mirror
from prefopt.tables.context import Context
from prefopt.tables.records import rows_of, write_json
from prefopt.tables.versions import versions

STEPS, PAIRS_PER_STEP, RATE, MAX_LENGTH = 50, 16, 1e-4, 96
START, END = "<!-- loss table: studies/loss_table.py -->", "<!-- end of the loss table -->"
# added to DPO, since they say nothing of the rejected answer
REGULARIZERS = ("budget", "dpop_outside")
UNITS = {
    "v": [[0.1, 0.0]] * 6,
    "w": [[1.0, 0.5]] * 6,
    "b": [[0.1, 0.2]] * 6,
}  # every basis function of the class
LEARNED = {
    "phi_inv": {"name": "learned", "units": UNITS, "a": 0.2, "c": 1.0, "d": 0.5},
    "psi": {"name": "log", "k": 1.0},
    "g": {"name": "logistic", "beta": 1.0},
    "reference": False,
}


def recipes(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Name -> recipe of every loss of the table, its shorthands, and a mirror loss from a file written to `folder`."""
    names = dict.fromkeys(row.name for row in LOSSES.values())
    found = {name: [{"name": name}] for name in names if name not in REGULARIZERS}
    found |= {f"dpo + {name}": [{"name": "dpo"}, {"name": name}] for name in REGULARIZERS}
    found |= {name: [{"name": name}] for name in ("ld_dpo", "wpo")}
    learned = export_mirror(
        folder / "learned.json", LEARNED, x="mean", provenance={"made": "by hand, for this table"}
    )
    return found | {"mirror, learned": [{"name": "mirror", "file": str(learned)}]}


def make_pairs(prompts: int, seed: int = 0) -> dict[str, list[Any]]:
    """Encoded train and held-out pairs with everything that a loss may need, from the quickstart's own stages."""
    from prefopt.core.settings import parse_config
    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_tokenizer
    from prefopt.pipeline.run import BY_NAME
    from prefopt.training.examples import encode_rows

    model = resolve_model("builtin:quickstart/base")
    settings: dict[str, dict[str, Any]] = {
        "data": {"path": "builtin:quickstart/train.jsonl", "limit": prompts, "heldout": 0.3},
        "sample": {"n": 4, "temperature": 1.0, "max_new_tokens": 64},
        "judge": {},
        "rank": {"strategy": "verify", "pairs_per_prompt": 2},
        "reference": {"max_length": MAX_LENGTH, "prefix_logps": True, "mismatched": True},
    }
    table = None
    for name, values in settings.items():
        stage = BY_NAME[name]
        config = parse_config(stage.config, values, name)
        table = stage.run(table, config, Context(seed=seed, model=model)).table
    rows, tokenizer = rows_of(table), load_tokenizer(model)

    def refuse(reason: str, where: str) -> None:
        raise ValueError(f"{where}: {reason}")

    return {
        split: encode_rows(tokenizer, [row for row in rows if row["split"] == split], max_length=MAX_LENGTH,
                           drop=refuse)[0]
        for split in ("train", "eval")
    }  # fmt: skip


def train_loss(
    specs: list[dict[str, Any]], pairs: dict[str, list[Any]], *, steps: int = STEPS, seed: int = 0
) -> dict[str, Any]:
    """Train the quickstart model; held-out loss before and after, and what became of the held-out pairs.

    reward_accuracy: share of pairs whose log-ratio rose more for the chosen than for the rejected answer (ties half).
    chosen_drift_nats: mean change of the log-prob of the chosen answer.
    """
    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_model
    from prefopt.scoring.logprobs import score
    from prefopt.training.examples import unpair
    from prefopt.training.settings import PreferenceConfig
    from prefopt.training.trainer import PreferenceTrainer

    loss, start = build_loss(specs), time.perf_counter()
    parts = {split: unpair(rows) if loss.kind == "unpaired" else rows for split, rows in pairs.items()}
    rows_per_step = PAIRS_PER_STEP * (2 if loss.kind == "unpaired" else 1)
    model = load_model(resolve_model("builtin:quickstart/base"), dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        settings = PreferenceConfig(
            output_dir=folder, seed=seed, learning_rate=RATE, max_steps=steps, warmup_steps=5, use_cpu=True,
            pairs_per_step=rows_per_step, pairs_per_micro_batch=rows_per_step, logging_steps=steps,
            save_strategy="no", report_to="none", disable_tqdm=True, bf16=False,
        )  # fmt: skip
        trainer = PreferenceTrainer(model, settings, loss, parts["train"], parts["eval"])
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        after = trainer.evaluate()["eval_loss"]
    moved = {
        role: [
            logp - row.reference[role]
            for row, logp in zip(
                pairs["eval"],
                score(model, [(r.prompt, r.answers[role]) for r in pairs["eval"]], 4096),
                strict=True,
            )
        ]
        for role in ("chosen", "rejected")
    }
    margins = [w - l for w, l in zip(moved["chosen"], moved["rejected"], strict=True)]
    right = [0.5 if abs(h) < 1e-3 else float(h > 0) for h in margins]
    return {
        "loss_before": before,
        "loss_after": after,
        "reward_accuracy": math.fsum(right) / len(right),
        "chosen_drift_nats": math.fsum(moved["chosen"]) / len(right),
        "margin_nats": math.fsum(margins) / len(right),
        "seconds": round(time.perf_counter() - start, 1),
    }


def as_markdown(study: dict[str, Any]) -> str:
    """The table for the guide."""
    lines = [
        f"{study['steps']} steps of {study['pairs_per_step']} pairs, learning rate {study['learning_rate']:g} for all; "
        f"{study['train_pairs']} training pairs, figures on {study['heldout_pairs']} held-out pairs. Losses have different "
        "scales: compare a row with itself.",
        "",
        "| loss | held-out loss before | after | held-out reward accuracy | chosen drift, nats | margin h, nats |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in study["losses"].items():
        lines.append(
            f"| `{name}` | {row['loss_before']:.4g} | {row['loss_after']:.4g} | {100 * row['reward_accuracy']:.1f}% | "
            f"{row['chosen_drift_nats']:+.2f} | {row['margin_nats']:+.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train with every loss and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    pairs = make_pairs(options.prompts)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, specs in recipes(Path(folder)).items():
            found[name] = train_loss(specs, pairs)
            print(name, found[name], flush=True)
    study = {
        "steps": STEPS, "pairs_per_step": PAIRS_PER_STEP, "learning_rate": RATE, "seed": 0,
        "train_pairs": len(pairs["train"]), "heldout_pairs": len(pairs["eval"]), "losses": found,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1,
                    "python": platform.python_version()},
        "versions": versions(),
    }  # fmt: skip
    write_json(options.json, study)
    if options.docs:
        text = options.docs.read_text(encoding="utf-8")
        head, rest = text.split(START)
        tail = rest.split(END)[1]
        options.docs.write_text(f"{head}{START}\n{as_markdown(study)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
