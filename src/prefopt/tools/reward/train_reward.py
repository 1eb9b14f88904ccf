"""Train a reward model from pairs: `prefopt train-reward --kind scalar|pairwise --input PAIRS --model DIR --output DIR`.

scalar learns one number per (prompt, answer); pairwise reads both answers at once, in both orders. What the numbers
mean, and which kind when: docs/judges.md.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core import processes
from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process
from prefopt.rules.content import text_of
from prefopt.stages.data.reading.naming import hold_out
from prefopt.stages.stage import Stage
from prefopt.stages.train.few import few_rows
from prefopt.stages.train.settings import trainer_settings
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.lock import working_in
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import WORK
from prefopt.tables.progress import progress, say
from prefopt.tables.records import Row, digest, make_table, rows_of, write_json
from prefopt.tools.reward.reward_figures import reward_card, reward_quality, write_figures
from prefopt.tools.reward.settings import RewardConfig

if TYPE_CHECKING:
    from datasets import Dataset

DONE = "trained.json"
BASE = "base"  # where the model `tiny` lies


def train_reward(table: Dataset, config: RewardConfig, context: Context) -> StageOutput:
    """Train `context.model` on the pairs; the reward model goes to `context.folder.path / "model"`.

    Columns read: prompt, chosen, rejected; `weight` multiplies a pair's loss, `margin` times `margin_scale` is what
    the loss demands, rows with `kept` false are left out, rows of split eval are held out. The table that comes back
    has one row per held-out pair: probability that the chosen answer is better, rewards, lengths. `figures.json` and
    `calibration.svg` lie in the folder. A killed run started again continues from its last complete checkpoint.

    Raises:
        PrefoptError: no folder or model, unpaired rows, no pair left, NaN during training.
    """
    if context.folder is None or context.model is None:
        raise PrefoptError(
            "train-reward: needs a model and a folder for the result; give --model DIR and --output DIR"
        )
    if "chosen" not in table.column_names or "rejected" not in table.column_names:
        raise PrefoptError("train-reward: the rows are no pairs (chosen, rejected); run `prefopt rank` first")
    done = context.folder.path / WORK / DONE
    if not done.is_file():
        result = _train(table, config, context, context.folder)
        if is_first_process():
            write_json(done, result)
    else:
        result = json.loads(done.read_text(encoding="utf-8"))
    if is_first_process():
        shutil.rmtree(context.folder.path / "checkpoints", ignore_errors=True)
        write_figures(result["quality"], context.folder.path)
    return StageOutput(make_table(result["rows"], ("id", "prompt_id")), result["dropped"], result["quality"])


def _train(table: Dataset, config: RewardConfig, context: Context, folder: StageFolder) -> dict[str, Any]:
    from prefopt.models.load import load_tokenizer
    from prefopt.models.quiet import seeded
    from prefopt.scoring.reward import load_reward_model, longest
    from prefopt.training.callbacks import Bar
    from prefopt.training.metrics import history_rows
    from prefopt.training.reward_trainer import RewardTrainer

    assert context.model is not None
    dropped: dict[str, int] = {}
    dtype = "float32" if config.precision == "mixed" else config.precision
    train_rows, held_rows = _split(rows_of(table), config, context, dropped)
    with seeded(context.seed):
        tokenizer = load_tokenizer(context.model)
        model = load_reward_model(context.model, tokenizer, dtype=dtype, new=config.kind)
        limit = min(config.max_length, longest(model, tokenizer))
        parts = [
            _encode(rows, config, tokenizer, limit, context, dropped) for rows in (train_rows, held_rows)
        ]
        examples, held = ([example for _, example in part] for part in parts)
        if not examples:
            raise PrefoptError(
                f"train-reward: no pair left to train on ({_reasons(dropped)}); raise max_length or give more"
            )
        warnings = few_rows(
            {"train": len(examples), "eval_prompts": len({r["prompt_id"] for r in held_rows})}
        )
        for text in warnings:
            say(f"warning: train-reward: {text}")
        settings = trainer_settings(config.training, folder.path / "checkpoints", context.seed, bool(held))
        total = config.steps or math.ceil(config.epochs * math.ceil(len(examples) / config.pairs_per_step))
        with folder.timed("training"), progress("train-reward", total) as advance:
            trainer = RewardTrainer(model, settings, examples, held or None, [Bar(advance, advance.note)])
            trainer.train(resume_from_checkpoint=True)
        rows = _held_out_rows(trainer, parts[1])
        history = history_rows(trainer.state.log_history)
        quality = reward_quality(config, len(examples), trainer.state.global_step, rows, history)
        quality["warnings"] = warnings
        _write_model(trainer, tokenizer, config, context.model, folder, quality)
    return {"rows": rows, "dropped": dropped, "quality": quality}


def _reasons(dropped: dict[str, int]) -> str:
    return (
        ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or "the table is empty"
    )


def _split(
    rows: Sequence[Row], config: RewardConfig, context: Context, dropped: dict[str, int]
) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows. Without eval rows a share of the prompts is held out, by a hash of their content."""
    usable = []
    for row in rows:
        weight = row.get("weight", 1.0)
        if row.get("kept") is False:
            dropped["not selected"] = dropped.get("not selected", 0) + 1
        elif weight is None or not math.isfinite(weight) or weight < 0:
            reason = "weight is not a finite number of at least 0"
            context.drop(dropped, reason, f"train-reward: row {row['id']!r}")
        else:
            usable.append(row)
    splits = [row.get("split") for row in usable]
    if "eval" not in splits and usable:
        marked = [{"prompt": row["prompt"]} for row in usable]
        hold_out(marked, config.heldout, context.seed)
        splits = [mark["split"] for mark in marked]
    held = [row for row, split in zip(usable, splits, strict=True) if split == "eval"]
    return [row for row, split in zip(usable, splits, strict=True) if split != "eval"], held


def _encode(
    rows: Sequence[Row],
    config: RewardConfig,
    tokenizer: Any,
    limit: int,
    context: Context,
    dropped: dict[str, int],
) -> list[tuple[Row, Any]]:
    """(row, example) of the rows that fit."""
    from prefopt.models.template import Unfit
    from prefopt.training.collate import compact
    from prefopt.training.reward_trainer import RewardExample

    found = []
    for row in rows:
        where = f"train-reward: row {row['id']!r}"
        try:
            answers = {role: compact(ids) for role, ids in _texts(row, config.kind, tokenizer, limit).items()}
        except Unfit as error:
            context.drop(dropped, error.reason, where)
            continue
        margin = config.margin_scale * (row.get("margin") or 0.0)
        example = RewardExample(
            str(row["id"]), compact([]), answers, {}, float(row.get("weight", 1.0)), None, margin
        )
        found.append((row, example))
    return found


def _texts(row: Row, kind: str, tokenizer: Any, limit: int) -> dict[str, list[int]]:
    """Token ids of the two texts that the model reads of a pair."""
    from prefopt.judges.prompt import prompt_text
    from prefopt.scoring.reward import encode_comparison, encode_scalar

    if kind == "scalar":
        return {
            side: encode_scalar(tokenizer, row, row[side], max_length=limit)
            for side in ("chosen", "rejected")
        }
    prompt = prompt_text(row["prompt"])
    chosen, rejected = text_of(row["chosen"]), text_of(row["rejected"])
    return {
        "forward": encode_comparison(tokenizer, prompt, chosen, rejected, max_length=limit),
        "backward": encode_comparison(tokenizer, prompt, rejected, chosen, max_length=limit),
    }


def _held_out_rows(trainer: Any, held: Sequence[tuple[Row, Any]]) -> list[Row]:
    """One row per held-out pair: probability, outputs, lengths."""
    from prefopt.training.reward_trainer import chosen_probability

    if not held:
        return []
    table = trainer.score([example for _, example in held])
    one, two = (table[role] for role in trainer.roles)
    p = chosen_probability(trainer.kind, one, two).tolist()
    names = (
        ("reward_chosen", "reward_rejected")
        if trainer.kind == "scalar"
        else ("logit_forward", "logit_backward")
    )
    return [
        {
            "id": row["id"],
            "prompt_id": row["prompt_id"],
            "probability": p[k],
            names[0]: one[k].item(),
            names[1]: two[k].item(),
            "chars_chosen": len(text_of(row["chosen"])),
            "chars_rejected": len(text_of(row["rejected"])),
        }
        for k, (row, _) in enumerate(held)
    ]


def _write_model(
    trainer: Any,
    tokenizer: Any,
    config: RewardConfig,
    base: Path,
    folder: StageFolder,
    quality: dict[str, Any],
) -> None:
    from prefopt.models.output import write_model

    if not is_first_process():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    write_model(
        model,
        tokenizer,
        reward_card(config, base, quality),
        temporary=folder.path / WORK / "model",
        target=folder.path / "model",
    )


def base_model(name: str, source: str, output: Path, seed: int) -> Path:
    """Directory of the model to start from; `tiny` is built from the input's own texts in `OUTPUT/base`."""
    from prefopt.models.find import resolve_model

    if name != "tiny" or Path(name).is_dir():
        return resolve_model(name)
    from prefopt.models.tiny import build_tiny_for
    from prefopt.stages.alone import open_input

    table = open_input(source, Context()).table
    folder = STAGE.folder(output)

    def build() -> None:
        check_apart(output, [("input", Path(source))])
        folder.check()
        with working_in(output):
            folder.claim()
            key = digest("tiny reward", rows_of(table), seed)
            build_tiny_for(table, output / BASE, key=key, seed=seed)

    processes.by_first(build)
    return output / BASE


STAGE = Stage(
    number=7,
    name="train-reward",
    config=RewardConfig,
    run=train_reward,
    reads=("id", "prompt_id", "prompt"),
    adds=("id", "prompt_id"),
    about="train a reward model on pairs; the table is the held-out pairs, the model lies at model/",
    needs_model=True,
    shares=lambda config: True,
    files=("model", "checkpoints", "figures.json", "calibration.svg", BASE),
    loose=("model/README.md",),
    lasting=(BASE,),  # it has a key of its own
)
