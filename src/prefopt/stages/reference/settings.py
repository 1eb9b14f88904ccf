"""Settings of 04-reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from prefopt.core.settings import Config

if TYPE_CHECKING:
    pass


class ReferenceConfig(Config):
    """Settings of the reference pass."""

    max_length: int = Field(
        1024,
        ge=2,
        description="tokens of prompt and answer; answers are cut at the end, too long prompts dropped",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of a padded batch (null: 8192; a longer sequence stands alone)",
    )
    shared_prefix: bool | None = Field(
        None,
        description="pack answers into rows where a prompt is computed once for all of them, without padding "
        "(null: where the model can, unless batch_tokens is set)",
    )
    max_tokens_per_row: int | None = Field(
        None, ge=1, description="tokens of a packed row (null: 768 on a CPU, 16384 on a GPU)"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "mixed"] = Field(
        "auto",
        description="dtype of the model; mixed: fp32 weights, bf16 arithmetic; auto is the checkpoint's own, in a recipe "
        "with train.precision mixed that",
    )
    store: str | None = Field(
        None,
        description="directory of a reference store to reuse and extend (default: one in the stage's folder)",
    )
    prefix_logps: bool | None = Field(
        None,
        description="also log-probs of the first min(chosen, rejected) tokens, which ld_alpha needs "
        "(null: if a loss of the recipe does)",
    )
    mismatched: bool | None = Field(
        None,
        description="also a completion of another prompt per row with its log-prob, which kto needs "
        "(null: if a loss of the recipe does)",
    )

    @model_validator(mode="after")
    def _rows_are_packed(self) -> ReferenceConfig:
        padded = self.shared_prefix is False or (self.shared_prefix is None and self.batch_tokens is not None)
        if self.max_tokens_per_row is not None and padded:
            raise ValueError(
                "max_tokens_per_row is of packed rows; remove it, or shared_prefix: false and batch_tokens"
            )
        return self
