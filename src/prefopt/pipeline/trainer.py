"""`prefopt.Trainer`: preference training of a model on a table, both by name or in memory, as one writes it with TRL.

trainer = prefopt.Trainer(model="DIR", train_dataset=dataset, loss={"name": "dpo", "beta": 0.1})
trainer.train()
trainer.save_model("out")
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, no_type_check

import torch
from transformers import PreTrainedTokenizerBase, TrainingArguments

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.plugins import load_installed
from prefopt.losses import LossSum, build_loss
from prefopt.models.find import resolve_model
from prefopt.models.given import with_tokenizer
from prefopt.models.load import default_device, load_model, load_tokenizer
from prefopt.models.quiet import seeded
from prefopt.pipeline.trl_arguments import converted
from prefopt.stages.data.reading.checks import check_row, settle_columns, to_form
from prefopt.stages.data.reading.dialogue import BadRow
from prefopt.stages.data.reading.files import plain
from prefopt.stages.data.reading.opening import opened
from prefopt.tables.foreign import foreign_rows
from prefopt.tables.progress import progress
from prefopt.tables.records import Row
from prefopt.tables.versions import versions
from prefopt.training.callbacks import Bar
from prefopt.training.collate import Example, Examples
from prefopt.training.examples import encode_rows, unpair
from prefopt.training.references import with_mismatched, with_references
from prefopt.training.settings import PreferenceConfig
from prefopt.training.trainer import PreferenceTrainer

logger = logging.getLogger("prefopt")
KEPT = (
    "id",
    "prompt_id",
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
    "tools",
    "chat_template_kwargs",
)


@no_type_check  # the Trainer's own fields are declared more narrowly than they are used
@dataclasses.dataclass
class TrainerConfig(PreferenceConfig):
    """Settings of `Trainer`: those of `PreferenceConfig` (and so of transformers' TrainingArguments) and `max_length`.

    max_length: tokens of prompt and answer; answers are cut, too long prompts dropped. Without output_dir nothing is
    written before `save_model`. pairs_per_step: pairs of an optimizer step (64).
    """

    output_dir: str | None = None
    max_length: int = 1024

    def __post_init__(self) -> None:
        """Fill in what is left open.

        Raises:
            PrefoptError: settings that contradict each other.
        """
        self.scratch = None
        if self.output_dir is None:
            self.scratch = tempfile.mkdtemp(prefix="prefopt-trainer-")
            self.output_dir, self.save_strategy = self.scratch, "no"
        if not torch.cuda.is_available() and not torch.backends.mps.is_available():
            self.use_cpu = True
        if self.max_length < 2:
            raise PrefoptError(f"max_length: {self.max_length}; give at least 2")
        super().__post_init__()


class Trainer(PreferenceTrainer):
    """Trains a model on pairs (or unpaired completions) with any loss; `train`, `evaluate`, `save_model` as in transformers.

    model: a directory, a hub name, or a transformers model, which is trained in place. processing_class: its tokenizer,
    where the model does not tell. train_dataset, eval_dataset: a Dataset, DataFrame or list of dicts with prompt, chosen,
    rejected (text or messages) or prompt, completion, label; also a table of the stages. Columns `weight` and
    `ref_*_logps` (sums, nats) are used; reference log-probs that the loss needs and no column has are computed here, by
    the model before training (with an adapter: by the model without it). loss: a name, a mapping, a list of terms, or a
    function. args: a `TrainerConfig`, a mapping of its fields, or TrainingArguments (also TRL's DPOConfig). peft_config:
    an adapter of peft in place of all weights. dropped: rows that are of no use, by reason.

    Raises:
        PrefoptError: bad data or settings, with the remedy.
    """

    def __init__(
        self,
        model: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        loss: Any = "dpo",
        args: Any = None,
        callbacks: list[Any] | None = None,
        peft_config: Any = None,
    ) -> None:
        load_installed()
        config, loss_spec = _settings(args, loss)
        built = build_loss(loss_spec)
        network, tokenizer, self.source = _loaded(model, processing_class, config)
        self.dropped: dict[str, int] = {}
        self._tokenizer, self._seed = tokenizer, config.seed
        train_rows = _rows(train_dataset, "train_dataset", self.dropped)
        if eval_dataset is None:  # a table of the stages holds both
            held_out = [row for row in train_rows if row.get("split") == "eval"]
            train_rows = [row for row in train_rows if row.get("split") != "eval"]
        else:
            held_out = _rows(eval_dataset, "eval_dataset", self.dropped)
        self._prepare = _Preparing(network, tokenizer, built, config, adapter=peft_config is not None)
        self._prepare.adapter |= hasattr(network, "peft_config")
        train_examples = self._prepare(train_rows, "train_dataset", self.dropped)
        eval_examples = self._prepare(held_out, "eval_dataset", self.dropped) if held_out else None
        if self.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            logger.warning("Trainer: rows dropped: %s", reasons)
        if peft_config is not None:
            network = _with_adapter(network, peft_config, config.seed)
        super().__init__(network, config, built, train_examples, eval_examples, callbacks)
        self.processing_class = tokenizer

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train. True resumes from the last complete checkpoint in `output_dir`, or starts where there is none."""
        steps = self.args.max_steps
        if steps <= 0:
            steps = int(self.args.num_train_epochs * -(-len(self.train_dataset) // self.args.pairs_per_step))
        with progress("train", steps) as advance:
            bar = Bar(advance if self.is_world_process_zero() else lambda count: None)
            self.add_callback(bar)
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            finally:
                self.remove_callback(bar)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and metrics on held-out rows (those given at the start unless others are given here), without gradient.

        Reference log-probs of other rows are computed only before training, or with an adapter, or where columns hold
        them.

        Raises:
            PrefoptError: there is no held-out row, or its reference log-probs cannot be had any more.
        """
        if eval_dataset is not None and not _is_encoded(eval_dataset):
            dropped: dict[str, int] = {}
            self._prepare.is_trained = self.state.global_step > 0
            rows = _rows(eval_dataset, "eval_dataset", dropped)
            eval_dataset = self._prepare(rows, "eval_dataset", dropped)
        found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model (an adapter by itself), its tokenizer and a card to a directory, in one move.

        Raises:
            PrefoptError: no directory is given, or it cannot be written.
        """
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        if output_dir is None and self.args.scratch is not None:
            raise PrefoptError("save_model: where to? give a directory")
        from prefopt.models.output import write_model

        model, weights = self.final_model(merge=False)
        if not self.is_world_process_zero():
            return
        target = Path(output_dir or self.args.output_dir)
        temporary = target.with_name(f".{target.name}.new")
        write_model(
            model, self._tokenizer, self._card(), temporary=temporary, target=target, state_dict=weights
        )

    def _card(self) -> str:
        from prefopt.models.card import UNKNOWN, base_licence, model_card

        last: dict[str, Any] = next((row for row in reversed(self.state.log_history) if "loss" in row), {})
        args = self.args
        settings = {
            "learning_rate": args.learning_rate,
            "pairs_per_step": args.pairs_per_step,
            "seed": args.seed,
        }
        return model_card(
            base=self.source or Path("a model in memory"),
            licence=base_licence(self.source) if self.source else UNKNOWN,
            dataset=None,
            losses=self.preference_loss.describe(),
            settings=settings | {"max_length": args.max_length},
            figures={"pairs": len(self.train_dataset), "steps": self.state.global_step, **last},
            versions=versions(),
        )

    def __del__(self) -> None:
        scratch = getattr(getattr(self, "args", None), "scratch", None)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


# ---- settings and model


def _settings(args: Any, loss: Any) -> tuple[TrainerConfig, Any]:
    """The trainer's settings and the loss, which TRL has among its settings.

    Raises:
        PrefoptError: an unknown setting, or one of TRL's that has no counterpart here.
    """
    if isinstance(args, TrainerConfig):
        return args, loss
    if isinstance(args, TrainingArguments):
        found, own_loss = converted(args, TrainerConfig)
        if own_loss is not None and loss != "dpo" and loss != own_loss:
            raise PrefoptError("loss: given both as an argument and in args (loss_type, beta); give it once")
        return TrainerConfig(**found), own_loss if own_loss is not None else loss
    if args is not None and not isinstance(args, Mapping):
        raise PrefoptError(
            f"args: a {type(args).__name__}; give a prefopt.TrainerConfig or a dict of its fields"
        )
    known = [item.name for item in dataclasses.fields(TrainerConfig) if item.init]
    for name in args or {}:
        if name not in known:
            raise PrefoptError(f"args: no setting {name!r}, {nearest(name, known)}")
    return TrainerConfig(**(args or {})), loss


def _loaded(model: Any, tokenizer: Any, config: TrainerConfig) -> tuple[Any, Any, Path | None]:
    """Model, tokenizer, and the directory they came from, None for a model in memory."""
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(resolve_model(str(tokenizer)))
    if not isinstance(model, str | Path):
        network, tokenizer = with_tokenizer(model, tokenizer)
        return network, tokenizer, None
    path = resolve_model(str(model))
    network = load_model(path, dtype="float32" if config.bf16 or config.fp16 else "auto")
    return network, tokenizer or load_tokenizer(path), path


def _with_adapter(model: Any, peft_config: Any, seed: int) -> Any:
    from peft import get_peft_model

    if not hasattr(peft_config, "peft_type"):
        raise PrefoptError(
            f"peft_config: a {type(peft_config).__name__}; give one of peft, e.g. LoraConfig(r=16)"
        )
    if getattr(peft_config, "target_modules", "") is None:
        peft_config = dataclasses.replace(peft_config, target_modules="all-linear")
    with seeded(seed), warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, peft_config)


# ---- rows


def _rows(given: Any, what: str, dropped: dict[str, int]) -> list[Row]:
    """Rows in our columns: those of the stages as they are, others by the forms that stage 00 knows.

    Raises:
        PrefoptError: another form, or no row.
    """
    raw = foreign_rows(given, what)
    if not raw:
        raise PrefoptError(f"{what}: holds no rows; give rows with prompt, chosen, rejected")
    names = set(raw[0])
    if {"id", "prompt"} <= names and ({"chosen", "rejected"} <= names or "completion" in names):
        return raw
    rows = ({name: plain(value) for name, value in row.items()} for row in raw)
    file = opened(((row, f"{what}: row {n}") for n, row in enumerate(rows, start=1)), "auto", {}, what)
    form = file.form
    if form.kind not in ("pairs", "unpaired"):
        raise PrefoptError(
            f"{what}: holds {form.kind}, not pairs; make them with prefopt.sample, judge and rank"
        )
    kept = []
    for number, (row, where) in enumerate(file.rows):
        try:
            made = check_row(to_form(form.convert(file.prepare(row, where)), None, form.kind), form.kind)
        except BadRow as bad:
            dropped[bad.reason] = dropped.get(bad.reason, 0) + 1
        else:
            kept.append({"id": str(number), **made})
    settle_columns(kept, KEPT)
    return kept


@dataclasses.dataclass
class _Preparing:
    """Rows -> encoded examples with everything that the loss reads."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    loss: LossSum
    config: TrainerConfig
    adapter: bool = False
    is_trained: bool = False

    def __call__(self, rows: Sequence[Row], what: str, dropped: dict[str, int]) -> list[Example]:
        def drop(reason: str, where: str) -> None:
            dropped[reason] = dropped.get(reason, 0) + 1

        examples, _ = encode_rows(self.tokenizer, rows, max_length=self.config.max_length, drop=drop)
        if self.loss.kind == "unpaired":
            examples = unpair(examples)
        if not examples:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
            raise PrefoptError(f"{what}: no row is left ({reasons or 'it is empty'})")
        self._check_kind(examples[0], what)
        return self._referenced(examples, what)

    def _check_kind(self, example: Example, what: str) -> None:
        if self.loss.kind == "pairwise" and "chosen" not in example.answers:
            raise PrefoptError(
                f"{what}: the loss reads pairs, the rows are unpaired; take loss='kto' or another unpaired one"
            )

    def _referenced(self, examples: list[Example], what: str) -> list[Example]:
        """With the reference log-probs that the loss reads, unless training computes them itself."""
        config = self.config
        wants_kl = "kl" in self.loss.needs and any("kl" not in example.answers for example in examples)
        is_live = config.sync_reference is not None or config.reference == "adapter_off"
        if not wants_kl and (not self.loss.needs_reference or is_live or self.adapter):
            return examples
        wanted = [name.removeprefix("ref_") for name in self.loss.needs if name.startswith("ref_")]
        if not wants_kl and all(name in example.reference for example in examples for name in wanted):
            return examples
        if self.is_trained:
            raise PrefoptError(
                f"{what}: the model is trained and no longer its own reference; add columns ref_*_logps by "
                "prefopt.reference, or give the rows at the start"
            )
        self.model.to(default_device() if not config.use_cpu else "cpu")
        found = with_references(examples, self.model, self.loss)
        if not wants_kl:
            return found
        return list(with_mismatched(found, self.model, seed=config.seed, max_length=config.max_length))


def _is_encoded(given: Any) -> bool:
    return isinstance(given, Examples) or (
        isinstance(given, Sequence) and bool(given) and isinstance(given[0], Example)
    )
