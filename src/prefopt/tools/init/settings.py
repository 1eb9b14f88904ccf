"""Settings that fit, from what is known of data, model and machine. The numbers and their sources are in docs/settings.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefopt.pipeline.costs import ModelSize, training_bytes
from prefopt.stages.train.settings import LoraSettings, TrainConfig
from prefopt.tools.init.facts import DataFacts, Machine, ModelFacts

# parameters up to which a row counts, peak learning rates of all weights and of LoRA, and where they come from
RATES = (
    (3_000_000_000, 1e-6, 1e-5, "alignment-handbook's DPO of SmolLM2 135M to 1.7B; LoRA ten times that"),
    (20_000_000_000, 5e-7, 5e-6, "alignment-handbook's DPO of Zephyr 7B, all weights and QLoRA"),
    (None, 2e-7, 2e-6, "Tulu 3's DPO of 70B (2411.15124); LoRA ten times that"),
)
WANTED_STEPS = 30  # optimizer steps that a training has at least, where the data allows
SMALLEST_BATCH, LARGEST_BATCH = 8, 64
SHARE = 0.6  # of the free memory that weights, gradients and moments may take; the rest is for activations
UNIT = 64  # lengths are multiples of this
DEFAULT_ANSWER = 256  # tokens of an answer where the data has none
TRAINED_ON, KEPT = 0.9, 0.5  # share of the rows that is not held out, and of these that selection keeps
ENOUGH = 1000  # rows from which half of the pairs may be dropped by selection


@dataclass(frozen=True)
class Fitted:
    """Settings that fit. source: of the learning rate; needed: bytes of training all weights, and as it is set."""

    learning_rate: float
    source: str
    lora: bool
    precision: str
    dtype: str
    max_length: int
    max_new_tokens: int
    pairs_per_step: int
    select: bool
    needed: tuple[int, int]


def fit(data: DataFacts, model: ModelFacts, machine: Machine, *, lora: bool | None = None) -> Fitted:
    """Choose. lora: None where memory decides."""
    precision, dtype = arithmetic(model.size, machine)
    full = _bytes(model.size, precision, lora=False)
    adapted = _bytes(model.size, precision, lora=True)
    takes_lora = full > SHARE * machine.memory if lora is None else lora
    rate, source = learning_rate(model.size.parameters, lora=takes_lora)
    max_length, answer = lengths(data, model.positions)
    selects = data.kind == "pairs" and data.rows >= ENOUGH
    return Fitted(
        learning_rate=rate,
        source=source,
        lora=takes_lora,
        precision=precision,
        dtype=dtype,
        max_length=max_length,
        max_new_tokens=answer,
        pairs_per_step=batch(round(TRAINED_ON * (KEPT if selects else 1) * data.rows)),
        select=selects,
        needed=(full, adapted if takes_lora else full),
    )


def learning_rate(parameters: int, *, lora: bool) -> tuple[float, str]:
    """Peak learning rate for a model of this size, and its source."""
    row = next(row for row in RATES if row[0] is None or parameters <= row[0])
    return (row[2] if lora else row[1]), row[3]


def arithmetic(size: ModelSize, machine: Machine) -> tuple[str, str]:
    """`train.precision`, and the dtype of sampling and reference pass.

    Weights of 16 bits are not trained as such: an update of 1e-6 is below half a unit in the last place of nearly all of
    them, and is lost.
    """
    is_half = size.dtype in ("bfloat16", "float16")
    if machine.device == "cuda":
        return ("mixed" if machine.has_bf16 else "float32"), "auto"
    return "float32", "float32" if is_half else "auto"


def lengths(data: DataFacts, positions: int | None) -> tuple[int, int]:
    """`max_length` that holds 99 of 100 rows, and the longest answer that is written, tokens."""
    most = positions or 1 << 20
    known = data.answer[2] if data.answer else 0
    answer = _up(known) if known else DEFAULT_ANSWER
    answer = max(1, min(answer, most - data.prompt[2]))
    needed = data.both[2] if data.kind in ("pairs", "unpaired") else data.prompt[2] + answer
    return max(2, min(_up(needed), most)), answer


def batch(pairs: int) -> int:
    """Pairs of an optimizer step: 64 where that leaves enough steps, else a smaller power of two."""
    size = LARGEST_BATCH
    while size > SMALLEST_BATCH and pairs / size < WANTED_STEPS:
        size //= 2
    return size


def _up(tokens: int) -> int:
    return -(-tokens // UNIT) * UNIT


def _bytes(size: ModelSize, precision: str, *, lora: bool) -> int:
    settings: dict[str, Any] = {"precision": precision, "lora": LoraSettings() if lora else None}
    return sum(training_bytes(size, TrainConfig.model_validate(settings)).values())
