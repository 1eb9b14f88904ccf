"""Columns of the table that stage 08 writes."""

from __future__ import annotations

SAMPLES = (
    "completion",
    "completion_index",
    "answer",
    "gold",
    "is_correct",
    "finish_reason",
    "completion_tokens",
    "model",
    "seed",
)
LOGPS = (
    "chosen_logps",
    "rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
    "chosen_tokens",
    "rejected_tokens",
)
ADDS = (
    "kind",
    "mode",
    "id",
    "prompt_id",
    "prompt",
    *SAMPLES,
    "chosen",
    "rejected",
    *LOGPS,
    "pair_correct",
)
