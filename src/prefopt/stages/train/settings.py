"""Settings of 07-train, and how they become those of the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from prefopt.core.errors import PrefoptError, nearest
from prefopt.core.settings import Config, OneOf

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from prefopt.losses import LossSum
    from prefopt.training.settings import PreferenceConfig

FULL_RATE, LORA_RATE = 1e-6, 5e-6
REAL_MODEL = 10_000_000  # parameters; the built-in models have about one million
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
# of transformers (`INTEGRATION_TO_CALLBACK`, which a test compares); names that it adds later are asked of it
TRACKERS = (
    "wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "clearml", "swanlab", "neptune", "azure_ml", "dagshub",
    "dvclive", "flyte", "kubeflow", "codecarbon",
)  # fmt: skip


class LoraSettings(Config):
    """Low-rank adapters in place of training all weights; keys beyond these are those of peft's LoraConfig."""

    model_config = ConfigDict(extra="allow")

    r: int = Field(16, ge=1, description="rank of the adapter")
    alpha: float = Field(32.0, gt=0, description="scale of the adapter: alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout within the adapter")
    target_modules: str | list[str] = Field("all-linear", description="all-linear, or names of linear layers")
    merge: bool = Field(
        True, description="add the adapter into the weights at the end; false keeps the adapter alone"
    )
    loraplus_lr_ratio: float | None = Field(
        None, gt=0, description="LoRA+: learning rate of B over that of A, e.g. 16 (null: one rate)"
    )

    @model_validator(mode="after")
    def _known_to_peft(self) -> LoraSettings:
        if self.model_extra:  # peft is imported for them alone
            from prefopt.models.lora import lora_settings

            try:
                lora_settings(**self.adapter)
            except PrefoptError as error:
                raise ValueError(str(error).removeprefix("train.")) from None
        return self

    @property
    def adapter(self) -> dict[str, Any]:
        """What `models.lora.add_adapter` takes."""
        return self.model_dump(exclude={"merge", "loraplus_lr_ratio"})

    @property
    def keeps_base(self) -> bool:
        """Whether the model is its base with the adapter off, as far as the settings tell."""
        more = self.model_extra or {}
        moves = str(more.get("init_lora_weights", "")).startswith(("pissa", "olora"))
        return not moves and more.get("bias", "none") == "none"


class SyncReference(Config):
    """A reference that follows the trained model (TR-DPO, 2404.09656)."""

    alpha: float = Field(
        1.0, ge=0, le=1, description="share of the model in the new reference; 1: the model itself"
    )
    every_steps: int = Field(512, ge=1, description="optimizer steps between two updates of the reference")


def _losses() -> list[str]:
    from prefopt.losses import LOSSES

    return list(LOSSES)


class TrainConfig(Config):
    """Settings of 07-train."""

    loss: Annotated[str | dict[str, Any] | list[str | dict[str, Any]], OneOf(_losses)] = Field(
        "dpo",
        description="a loss, or a list of terms that are added, e.g. [{name: dpo, beta: 0.1}, {name: budget}]",
    )
    beta: float | None = Field(
        None, gt=0, description="beta of every term that has one, above what `loss` says"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate (null: 1e-6, with LoRA 5e-6)"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after the warmup"
    )
    warmup: float = Field(
        0.1, ge=0, description="linear warmup: below 1 a share of all steps, else optimizer steps"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the training pairs")
    steps: int | None = Field(None, ge=1, description="optimizer steps; wins over epochs")
    pairs_per_step: int = Field(
        64, ge=1, description="global batch: pairs of one optimizer step, over all processes"
    )
    pairs_per_micro_batch: int | None = Field(
        None, ge=1, description="pairs of one forward pass, a divisor of a process's share (null: up to 8)"
    )
    shared_prefix: bool | None = Field(
        None,
        description="pack pairs into rows where a prompt is computed once for both answers, without padding "
        "(null: where the model can, unless pairs_per_micro_batch is set)",
    )
    max_tokens_per_row: int | None = Field(
        None, ge=1, description="tokens of a packed row (null: 768 on a CPU, 16384 on a GPU)"
    )
    max_length: int = Field(
        1024, ge=2, description="prompt and answer, tokens; answers are cut, too long prompts dropped"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, not on norms and biases")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 = never")
    optimizer: str = Field(
        "adamw_torch", description="an optimizer of transformers' Trainer, e.g. adamw_bnb_8bit, adafactor"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates")
    precision: Literal["auto", "float32", "bfloat16", "mixed"] = Field(
        "auto", description="auto: the checkpoint's dtype; mixed: fp32 weights, bf16 arithmetic"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory"
    )
    activation_offload: bool = Field(
        False, description="hold on the host what the backward pass needs: less GPU memory, more transfers"
    )
    torch_compile: bool = Field(
        False, description="compile the decoder layers: a slow first step, then faster"
    )
    attention: Literal["sdpa", "eager", "flex_attention"] | None = Field(
        None,
        description="how the model attends; flex_attention skips what the mask of a packed row empties, for CUDA "
        "(null: sdpa where the model has it)",
    )
    strategy: Literal["none", "ddp", "fsdp2", "deepspeed"] | None = Field(
        None,
        description="how processes work together; fsdp2 shards the weights (null: ddp where there are several)",
    )
    deepspeed: Path | None = Field(
        None, description="DeepSpeed's JSON configuration; asks for strategy deepspeed"
    )
    lora: LoraSettings | None = Field(
        None,
        description="{r, alpha, dropout, target_modules, merge, loraplus_lr_ratio} and fields of peft's LoraConfig; null: all weights",
    )
    load_in_4bit: bool = Field(
        False, description="hold the frozen weights in 4 bits under an adapter (QLoRA; CUDA and bitsandbytes)"
    )
    load_in_8bit: bool = Field(
        False,
        description="hold the frozen weights in 8 bits under an adapter (LLM.int8; CUDA and bitsandbytes)",
    )
    reference: Literal["auto", "store", "adapter_off"] = Field(
        "auto",
        description="reference log-probs: store: of 04-reference; adapter_off: the model without its adapter, "
        "computed in every step; auto: adapter_off where LoRA meets rows without them",
    )
    sync_reference: SyncReference | None = Field(
        None, description="{alpha, every_steps}: the reference follows the model (TR-DPO); null: it stays"
    )
    router_loss: float | None = Field(
        None, gt=0, description="mixture-of-experts models: factor of the load-balancing loss (null: off)"
    )
    eval_steps: int | None = Field(
        50, ge=1, description="evaluate on held-out pairs every so many steps (null: at the end)"
    )
    save_steps: int = Field(100, ge=1, description="checkpoint every so many steps, to resume from")
    save_minutes: float | None = Field(
        10.0, gt=0, description="also a checkpoint when the last one is so old (null: by save_steps alone)"
    )
    sample_steps: int = Field(
        0,
        ge=0,
        description="write greedy answers to a few prompts every so many steps, see samples.jsonl (0: never)",
    )
    sample_prompts: int = Field(3, ge=1, description="held-out prompts that sample_steps has answered")
    sample_tokens: int = Field(128, ge=1, description="longest answer of sample_steps, tokens")
    logging_steps: int = Field(10, ge=1, description="a line of the history every so many steps")
    keep: Literal["auto", "last", "best"] = Field(
        "auto",
        description="which weights the model gets: auto, the best of the held-out evaluations where there are two or more and the "
        "model is a real one (10 million parameters), else the last",
    )
    best_by: Literal["loss", "rewards/accuracies"] = Field(
        "loss", description="held-out figure that decides what is best"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a new best (null: never)"
    )
    report_to: Annotated[str | list[str], OneOf(lambda: ["none", "all", *TRACKERS])] = Field(
        "none", description="tracker, or a list of them; all: every one that is installed"
    )
    push_to_hub: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="hub repository owner/name for the model"
    )
    license: str | None = Field(None, description="licence in the model card (null: the base model's)")
    dataset: str | None = Field(None, description="name of the data in the model card")
    keep_checkpoints: bool = Field(
        False, description="leave the checkpoints in the stage's folder when it is done"
    )

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: Any) -> Any:
        _build(value, None)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        _build(self.loss, self.beta)
        self._check_adapter()
        needs_eval = self.keep == "best" or self.early_stopping_patience is not None
        if needs_eval and self.eval_steps is None:
            raise ValueError("keep: best and early_stopping_patience need eval_steps; set it")
        if needs_eval and self.best_by != "loss" and self.loss_sum.kind == "unpaired":
            raise ValueError(
                f"best_by {self.best_by} is of pairs, but the loss is unpaired; set best_by to loss"
            )
        return self

    def _check_adapter(self) -> None:
        if self.reference == "adapter_off" and self.lora is None:
            raise ValueError("reference: adapter_off needs an adapter; set lora")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit: one of them")
        if self.bits and (self.lora is None or self.lora.merge or not self.lora.keeps_base):
            raise ValueError(
                f"load_in_{self.bits}bit trains an adapter on weights that stay in {self.bits} bits; set lora.merge to "
                "false (and leave init_lora_weights and bias out), and merge with `prefopt merge-adapter`"
            )
        if self.sync_reference is None:
            return
        if self.reference != "auto" or not self.loss_sum.needs_reference:
            raise ValueError(
                "sync_reference computes the reference itself; remove `reference`, and take a loss that reads one"
            )
        if self.lora is not None and self.sync_reference.alpha != 1:
            raise ValueError("sync_reference.alpha must be 1 with lora: a mean of adapters is no adapter")

    @property
    def loss_sum(self) -> LossSum:
        """The loss, with `beta` put into its terms."""
        return _build(self.loss, self.beta)

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Bits of the frozen weights; None: as they are."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None

    @property
    def trackers(self) -> list[str]:
        """The trackers that are wanted."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        if "all" in names:
            from transformers.integrations import get_available_reporting_integrations

            return list(get_available_reporting_integrations())
        return [name for name in names if name != "none"]

    @field_validator("report_to")
    @classmethod
    def _known_tracker(cls, value: str | list[str]) -> str | list[str]:
        for name in [value] if isinstance(value, str) else value:
            if name not in ("none", "all", *TRACKERS) and name not in _trackers():
                raise ValueError(f"{name!r}: no tracker of transformers, {nearest(name, TRACKERS)}")
        return value

    @property
    def peak_rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (LORA_RATE if self.lora else FULL_RATE)


def _build(specs: Any, beta: float | None) -> LossSum:
    from prefopt.losses import build_loss

    try:
        return build_loss(specs if beta is None else _with_beta(specs, beta))
    except PrefoptError as error:
        raise ValueError(str(error)) from None


def _with_beta(specs: Any, beta: float) -> list[dict[str, Any]]:
    """The terms, each that has a beta with this one."""
    from prefopt.losses import LOSSES
    from prefopt.losses.recipe import SHORTHANDS

    given = [specs] if isinstance(specs, str | dict) else specs
    items: list[dict[str, Any]] = [{"name": item} if isinstance(item, str) else dict(item) for item in given]
    found = False
    for item in items:
        name = str(SHORTHANDS.get(item.get("name", ""), item).get("name"))
        if name in LOSSES and "beta" in LOSSES[name].defaults:
            item["beta"] = beta
            found = True
    if not found:
        raise PrefoptError("beta: no term of the loss has one; remove it")
    return items


def trainer_settings(config: TrainConfig, folder: Path, seed: int, has_eval: bool) -> PreferenceConfig:
    """The trainer's settings; checkpoints go to `folder`.

    Raises:
        PrefoptError: an unknown optimizer, a tracker or package that is not installed, a strategy that cannot be
            had or that cannot merge an adapter, a batch that does not divide, no held-out pair where one is needed.
    """
    from dataclasses import fields
    from importlib.util import find_spec

    import torch
    from transformers.training_args import OptimizerNames

    from prefopt.training.distributed import LOCKSTEP, is_bitsandbytes
    from prefopt.training.settings import PreferenceConfig

    names = [str(name.value) for name in OptimizerNames]
    if config.optimizer not in names:
        raise PrefoptError(f"train.optimizer: {config.optimizer!r}, {nearest(config.optimizer, names)}")
    if not has_eval and (config.keep == "best" or config.early_stopping_patience is not None):
        raise PrefoptError(
            "train: keep: best and early stopping need held-out pairs; set data.heldout above 0"
        )
    if is_bitsandbytes(config.optimizer) and find_spec("bitsandbytes") is None:
        raise PrefoptError(
            f"train.optimizer: {config.optimizer} is of bitsandbytes, which is not installed; pip install bitsandbytes"
        )
    _check_trackers(config.trackers)
    known = {item.name for item in fields(PreferenceConfig)}
    # named differently in older releases of transformers
    recompute = (
        "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    )
    optional = {recompute: True} if config.gradient_checkpointing else {}
    settings = PreferenceConfig(
        output_dir=str(folder),
        seed=seed,
        learning_rate=config.peak_rate,
        lr_scheduler_type=SCHEDULES[config.schedule],
        warmup_steps=config.warmup,
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        pairs_per_step=config.pairs_per_step,
        pairs_per_micro_batch=config.pairs_per_micro_batch,
        shared_prefix=config.shared_prefix,
        max_tokens_per_row=config.max_tokens_per_row,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=config.optimizer,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        bf16=config.precision == "mixed",
        activation_offload=config.activation_offload,
        attention=config.attention,
        torch_compile=config.torch_compile,
        strategy=config.strategy,
        deepspeed=str(config.deepspeed) if config.deepspeed else None,
        use_cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
        eval_strategy="steps" if has_eval and config.eval_steps else "no",
        eval_steps=config.eval_steps,
        save_steps=config.save_steps,
        save_minutes=config.save_minutes,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        keep="best" if config.keep == "best" else "last",
        metric_for_best_model=config.best_by,
        early_stopping_patience=config.early_stopping_patience,
        # a store's log-probs are of the weights before they were rounded to 4 or 8 bits
        reference="adapter_off" if config.bits and not config.sync_reference else config.reference,
        sync_reference=config.sync_reference.model_dump() if config.sync_reference else None,
        router_loss=config.router_loss,
        loraplus_lr_ratio=config.lora.loraplus_lr_ratio if config.lora else None,
        report_to=[name for name in config.trackers if name != "tensorboard"],
        **optional,
    )
    if config.lora is not None and config.lora.merge and settings.chosen_strategy in LOCKSTEP:
        raise PrefoptError(
            f"train.lora.merge: not possible with {settings.chosen_strategy}, which shards the weights; set it to false, "
            "and merge with `prefopt merge-adapter`"
        )
    return settings


def with_best(config: TrainConfig, parameters: int, steps: int, *, has_eval: bool) -> TrainConfig:
    """`keep: auto` as best, where a real model is evaluated at least twice; as it is where it means the last."""
    evaluations = math.ceil(steps / config.eval_steps) if has_eval and config.eval_steps else 0
    is_deepspeed = (
        config.deepspeed is not None or config.strategy == "deepspeed"
    )  # whose checkpoints are its own
    if config.keep != "auto" or parameters < REAL_MODEL or evaluations < 2 or is_deepspeed:
        return config
    return config.model_copy(update={"keep": "best"})


def _trackers() -> dict[str, Any]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    return dict(INTEGRATION_TO_CALLBACK)


def _check_trackers(names: list[str]) -> None:
    """Refuse a tracker that is not installed: transformers' own callback says so when it is made."""
    from importlib.util import find_spec

    for name in names:
        if name in ("wandb", "tensorboard", "trackio"):  # named as their packages
            if find_spec(name) is None:
                raise PrefoptError(f"train.report_to: {name} is not installed; pip install {name}")
            continue
        try:
            _trackers()[name]()
        except (RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise PrefoptError(f"train.report_to: {name}: {reason or 'is not installed'}") from None


TRAINED = "model"  # directory of a trained model within 07-train


CALLBACKS = "callbacks"  # input of 07-train: of transformers' Trainer
FIXED = "fixed_reference"  # input of 07-train: rewards do not begin at 0
