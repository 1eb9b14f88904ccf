"""Settings of `prefopt train-reward`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from prefopt.core.settings import Config
from prefopt.stages.train.settings import TrainConfig

if TYPE_CHECKING:
    pass


SHARED = (
    *("learning_rate", "schedule", "warmup", "epochs", "steps", "pairs_per_step", "pairs_per_micro_batch"),
    *(
        "max_length",
        "weight_decay",
        "max_grad_norm",
        "precision",
        "eval_steps",
        "save_steps",
        "logging_steps",
    ),
    "gradient_checkpointing",
)


class RewardConfig(Config):
    """Settings of train-reward."""

    kind: Literal["scalar", "pairwise"] = Field(
        "scalar", description="scalar: a number per answer; pairwise: reads both answers at once"
    )
    heldout: float = Field(
        0.1, ge=0, lt=1, description="share of the prompts held out, where the table has no eval rows"
    )
    margin_scale: float = Field(
        0.0, ge=0, description="the loss demands a reward difference of this times the pair's margin; 0: none"
    )
    bins: int = Field(10, ge=1, description="bins of the calibration")
    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="after the warmup")
    warmup: float = Field(0.1, ge=0, description="below 1 a share of all steps, else optimizer steps")
    epochs: float = Field(1.0, gt=0, description="passes over the training pairs")
    steps: int | None = Field(None, ge=1, description="optimizer steps; wins over epochs")
    pairs_per_step: int = Field(64, ge=1, description="global batch: pairs of one optimizer step")
    pairs_per_micro_batch: int | None = Field(
        None, ge=1, description="pairs of one forward pass (null: up to 8)"
    )
    max_length: int = Field(
        1024, ge=32, description="tokens of a text; answers are cut, too long prompts dropped"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 = never")
    precision: Literal["auto", "float32", "bfloat16", "mixed"] = Field(
        "auto", description="auto: the checkpoint's dtype; mixed: fp32 weights, bf16 arithmetic"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    eval_steps: int | None = Field(50, ge=1, description="evaluate every so many steps (null: at the end)")
    save_steps: int = Field(100, ge=1, description="checkpoint every so many steps, to resume from")
    logging_steps: int = Field(10, ge=1, description="a line of the history every so many steps")

    @property
    def training(self) -> TrainConfig:
        """The settings that the trainer of policies has too."""
        return TrainConfig(**{name: getattr(self, name) for name in SHARED})
