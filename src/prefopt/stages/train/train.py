"""07-train: pairs with weights and reference log-probs -> a trained model and its history."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import is_first_process
from prefopt.core.plugins import digests
from prefopt.stages.concerns import cut_answers
from prefopt.stages.stage import Stage
from prefopt.stages.train.few import counts_of, few_rows
from prefopt.stages.train.samples_file import SAMPLES, chosen_prompts
from prefopt.stages.train.settings import (
    CALLBACKS,
    FIXED,
    LoraSettings,
    TrainConfig,
    trainer_settings,
    with_best,
)
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.owned import WORK
from prefopt.tables.progress import MUCH, progress, say
from prefopt.tables.records import make_table, write_json
from prefopt.tables.table_rows import TableRows
from prefopt.tables.versions import versions

if TYPE_CHECKING:
    from datasets import Dataset

    from prefopt.training.trainer import PreferenceTrainer

logger = logging.getLogger("prefopt.train")
DONE = "trained.json"
PAIRS_WANTED = "the loss reads pairs, but the data is unpaired; take train.loss kto, bco or apo_zero_unpaired"


def train(table: Dataset, config: TrainConfig, context: Context) -> StageOutput:
    """Train `context.model` on the table's train rows; the model goes to `context.folder.path / "model"`.

    Held-out rows (split "eval") are evaluated every `eval_steps` and at the end. A killed run started again continues
    from its last complete checkpoint and ends with the same bytes. Returns the history: one row per logged step.

    Raises:
        PrefoptError: no folder or model, no pair left, an input that the loss needs is missing, NaN during training.
    """
    if context.folder is None or context.model is None:
        raise PrefoptError(
            "train: needs a model and a folder for the result; give --model DIR and --output DIR"
        )
    done = context.folder.path / WORK / DONE
    if not done.is_file():
        result = _train(table, config, context, context.folder)
        if is_first_process():
            write_json(done, result)
    else:
        result = json.loads(done.read_text(encoding="utf-8"))
    if is_first_process() and not config.keep_checkpoints:
        shutil.rmtree(context.folder.path / "checkpoints", ignore_errors=True)
    return StageOutput(make_table(result["history"]), result["dropped"], result["quality"])


def _train(table: Dataset, config: TrainConfig, context: Context, folder: StageFolder) -> dict[str, Any]:
    from prefopt.models.load import load_model, load_tokenizer
    from prefopt.models.quiet import seeded
    from prefopt.training.metrics import history_rows
    from prefopt.training.trainer import PreferenceTrainer

    assert context.model is not None
    loss = config.loss_sum
    dropped: dict[str, int] = {}
    dtype = "float32" if config.precision == "mixed" else config.precision
    with seeded(context.seed):
        tokenizer = load_tokenizer(context.model)
        model = load_model(context.model, dtype=dtype, bits=config.bits)
        parts = _encode(
            table, config, tokenizer, lambda reason, where: context.drop(dropped, reason, f"train: {where}")
        )
        _check_fit(chain(parts["train"], parts["eval"]), model)
        if "kl" in loss.needs and not _has_mismatched(parts):
            parts |= _with_mismatched(parts, model, config, context.seed)
        total = _total_steps(config, len(parts["train"]))
        config = _told_best(
            config, with_best(config, _parameters(model), total, has_eval=bool(parts["eval"]))
        )
        if config.lora is not None:
            model = _adapted(model, config.lora)
        settings = trainer_settings(config, folder.path / "checkpoints", context.seed, bool(parts["eval"]))
        with folder.timed("training"), _bar(total) as callback:
            trainer = PreferenceTrainer(
                model,
                settings,
                loss,
                parts["train"],
                parts["eval"] or None,
                [
                    callback,
                    *_trackers(config, folder),
                    *_samples(config, table, tokenizer, folder, settings),
                    *context.inputs.get(CALLBACKS, ()),
                ],
            )
            trainer.starts_at_reference = not context.inputs.get(FIXED)
            trainer.train(resume_from_checkpoint=True)
        folder.timings[-1]["what"] = (
            f"training, steps {callback.started_at + 1} to {trainer.state.global_step}"
        )
        history = history_rows(trainer.state.log_history)
        quality = _quality(config, trainer, history) | {"truncated": parts["truncated"]}
        quality["warnings"] = [*parts["few"], *quality["warnings"]]
        _write(trainer, tokenizer, config, context.model, folder, quality)
        trainer.accelerator.wait_for_everyone()
    return {"history": history, "dropped": dropped, "quality": quality}


def _encode(
    table: Dataset, config: TrainConfig, tokenizer: Any, drop: Callable[[str, str], None]
) -> dict[str, Any]:
    """Examples by split, on files, and the number of truncated rows."""
    from prefopt.training.example_file import ExampleFile
    from prefopt.training.examples import iter_encoded, unpair

    rows = TableRows(table)
    if config.loss_sum.kind != "unpaired" and "chosen" not in table.column_names:
        raise PrefoptError(f"train: {PAIRS_WANTED}")
    parts: dict[str, Any] = {"truncated": 0}

    def counted(encoded: Iterable[tuple[Any, bool]]) -> Iterator[Any]:
        for example, is_cut in encoded:
            parts["truncated"] += is_cut
            yield from unpair([example]) if config.loss_sum.kind == "unpaired" else [example]

    for split in ("train", "eval"):
        mine = (row for row in rows if (row.get("split") == "eval") == (split == "eval"))
        encoded = iter_encoded(tokenizer, mine, max_length=config.max_length, drop=drop)
        parts[split] = ExampleFile(counted(encoded))
    if not parts["train"]:
        raise PrefoptError(
            "train: no pair left to train on; loosen selection, raise max_length or give more data"
        )
    if not any(example.weight > 0 for example in parts["train"]):
        raise PrefoptError("train: every pair has weight 0; see the settings of `weight`")
    held_out = (str(row.get("prompt_id")) for row in rows if row.get("split") == "eval")
    unpaired = config.loss_sum.kind == "unpaired"
    parts["few"] = few_rows(counts_of(parts["train"], held_out, unpaired=unpaired))
    if parts["truncated"] > MUCH * len(rows) and "truncated" not in table.column_names:  # else 04 has said so
        parts["few"].append(cut_answers("train", parts["truncated"], len(rows), config.max_length))
    for text in parts["few"] if is_first_process() else ():
        logger.warning("train: %s", text)
    return parts


def _check_fit(examples: Iterable[Any], model: Any) -> None:
    """Refuse rows with more tokens than the model has positions, or with ids beyond its embedding."""
    from prefopt.models.load import check_ids

    longest: tuple[int, Any] = (-1, None)
    largest: tuple[int, Any] = (-1, None)
    for example in examples:
        answers = example.answers.values()
        size = len(example.prompt) + max(map(len, answers))
        top = max(int(ids.max()) for ids in (example.prompt, *answers))
        longest = max(longest, (size, example), key=itemgetter(0))
        largest = max(largest, (top, example), key=itemgetter(0))
    for _, example in (longest, largest):
        for ids in example.answers.values():
            check_ids(model, [*example.prompt.tolist(), *ids.tolist()], f"train: row {example.id!r}")


def _has_mismatched(parts: Mapping[str, Any]) -> bool:
    """Whether the reference pass drew KTO's mismatched completions (else training does, once, by seed)."""
    return all("kl" in row.answers for split in ("train", "eval") for row in parts[split])


def _with_mismatched(parts: Mapping[str, Any], model: Any, config: TrainConfig, seed: int) -> dict[str, Any]:
    """KTO's mismatched completions with their log-probs under the model before training, which is the reference."""
    from prefopt.training.example_file import ExampleFile
    from prefopt.training.references import with_mismatched

    length = config.max_length
    return {
        split: ExampleFile(
            with_mismatched(parts[split], model, seed=seed, max_length=length, spare=parts[other])
        )
        for split, other in (("train", "eval"), ("eval", "train"))
        if parts[split]
    }


def _adapted(model: Any, lora: LoraSettings) -> Any:
    from prefopt.models.lora import add_adapter

    return add_adapter(model, **lora.adapter)


def _trackers(config: TrainConfig, folder: StageFolder) -> list[Any]:
    from prefopt.training.callbacks import tensorboard

    wanted = "tensorboard" in config.trackers and is_first_process()
    return [tensorboard(folder.path / "tensorboard")] if wanted else []


def _samples(
    config: TrainConfig, table: Dataset, tokenizer: Any, folder: StageFolder, settings: Any
) -> list[Any]:
    """What writes answers while training, where that is wanted; of several processes the first."""
    from prefopt.stages.train.sampling import Samples
    from prefopt.training.distributed import LOCKSTEP

    if not config.sample_steps or not is_first_process():
        return []
    if settings.chosen_strategy in LOCKSTEP:
        logger.warning(
            "train: no samples with %s, which shards the weights; set sample_steps to 0",
            settings.chosen_strategy,
        )
        return []
    rows = chosen_prompts(TableRows(table), config.sample_prompts)
    return [Samples(rows, tokenizer, config.sample_steps, config.sample_tokens, folder.path / SAMPLES)]


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    """A callback that moves the stage's progress bar; shown by the first process only."""
    from prefopt.training.callbacks import Bar

    if not is_first_process():
        yield Bar(lambda count: None)
        return
    with progress("train", total) as advance:
        yield Bar(advance, advance.note)


def _total_steps(config: TrainConfig, rows: int) -> int:
    return config.steps or math.ceil(config.epochs * math.ceil(rows / config.pairs_per_step))


def _told_best(given: TrainConfig, config: TrainConfig) -> TrainConfig:
    """`config`, with a line where it was settled to keep the best weights."""
    if config.keep != given.keep:
        by = "loss" if config.best_by == "loss" else "accuracy"
        say(
            f"train: keeps the weights with the best held-out {by} of all evaluations (every {config.eval_steps} steps); "
            "train.keep: last keeps the last"
        )
    return config


def _parameters(model: Any) -> int:
    return sum(_size(p) for p in model.parameters())


def _quality(
    config: TrainConfig, trainer: PreferenceTrainer, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Figures for manifest, report and model card; nothing of the wall clock."""
    from prefopt.training.metrics import warnings_of

    state = trainer.state
    parameters = list(trainer.model.parameters())
    last = {name: value for row in history for name, value in row.items() if not name.startswith("step0/")}
    return {
        "pairs": len(trainer.train_dataset),
        "eval_pairs": len(trainer.eval_dataset or ()),
        "steps": state.global_step,
        "stopped_early": state.global_step < state.max_steps,
        "kept_step": state.best_global_step if config.keep == "best" else state.global_step,
        "parameters": _parameters(trainer.model),
        "trained_parameters": sum(_size(p) for p in parameters if p.requires_grad),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "loss": config.loss_sum.describe(),
        "reference": trainer.reference_kind,
        "step0": {name: value for name, value in history[0].items() if name.startswith("step0/")},
        "final": {name: value for name, value in last.items() if name not in ("step", "epoch")},
        "warnings": warnings_of(history),
    }


def _size(weight: Any) -> int:
    """Numbers of a weight over all processes (ZeRO-3 leaves an empty tensor with a note)."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _write(
    trainer: PreferenceTrainer,
    tokenizer: Any,
    config: TrainConfig,
    base: Path,
    folder: StageFolder,
    quality: dict[str, Any],
) -> None:
    """The model directory and, if wanted, the hub."""
    from prefopt.models.card import base_licence, model_card
    from prefopt.models.output import push_model, write_model

    model, weights = trainer.final_model(merge=config.lora is not None and config.lora.merge)
    if not is_first_process():
        return
    counts = {
        key: quality[key] for key in ("pairs", "eval_pairs", "truncated", "steps", "kept_step", "parameters")
    }
    settings = config.model_dump(
        mode="json", exclude_defaults=True, exclude={"loss", "push_to_hub", "license", "dataset"}
    )
    card = model_card(
        base=base,
        licence=config.license or base_licence(base),
        dataset=config.dataset,
        losses=quality["loss"],
        settings={"learning_rate": config.peak_rate, **settings},
        figures=counts | quality["final"],
        versions=versions(),
    )
    target = folder.path / "model"
    write_model(
        model, tokenizer, card, temporary=folder.path / WORK / "model", target=target, state_dict=weights
    )
    if config.push_to_hub:
        push_model(target, config.push_to_hub)


STAGE = Stage(
    number=7,
    name="train",
    config=TrainConfig,
    run=train,
    reads=("id", "prompt"),
    adds=("step", "epoch", "loss"),
    about="train the model on the pairs; the table is the history, the model lies at model/",
    needs_model=True,
    shares=lambda config: True,
    outside=lambda config: digests("loss", [term.loss.name for term in config.loss_sum.terms]),
    files=("model", "checkpoints", SAMPLES),
    loose=("tensorboard", "model/README.md"),
)
