"""What training and passes take, estimated without doing them: parameters from the files, memory by count, time by a short probe."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefopt.core.errors import PrefoptError
from prefopt.training.schedule import rate, warm_steps

if TYPE_CHECKING:
    import torch

    from prefopt.stages.train.settings import LoraSettings, TrainConfig

BYTES = {
    "F64": 8,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
TRAIN, SCORE = 3, 1  # a backward pass takes about two forward passes (2001.08361, section 2.1)
GROWING = 256  # answers that grow side by side in the probe, at most
PROBED = 200_000_000  # parameters up to which the model itself is loaded for the probe
HOW = (
    "memory: weights, gradients and two moments of Adam by the number of parameters; activations and logits come on top, "
    "and they grow with micro-batch and length. "
    "time: {probe}; loading, evaluation within training and the judge are not in it"
)


@dataclass(frozen=True)
class ModelSize:
    """Of the model on disk. parameters: all; bytes: of the weights; dtype: of most; linear: (rows, columns) of its linear layers."""

    parameters: int
    bytes: int
    dtype: str
    linear: tuple[tuple[int, int], ...]

    def adapter(self, lora: LoraSettings) -> int:
        """Parameters of an adapter: rank times rows plus columns of every linear layer it stands on."""
        return sum(lora.r * (rows + columns) for rows, columns in self.linear)


def model_size(directory: Path) -> ModelSize:
    """Read from the headers of the safetensors files alone; an adapter counts with its base.

    Raises:
        PrefoptError: no weights there, or a file that is no safetensors file.
    """
    from prefopt.models.adapters import base_of, is_adapter

    if is_adapter(directory):
        return model_size(base_of(directory))
    parameters, size = 0, 0
    dtypes: dict[str, int] = {}
    linear = []
    for path in sorted(directory.glob("*.safetensors")):
        for name, entry in _header(path).items():
            count = math.prod(entry["shape"])
            parameters += count
            size += count * BYTES.get(entry["dtype"], 4)
            dtypes[entry["dtype"]] = dtypes.get(entry["dtype"], 0) + count
            shape = entry["shape"]
            if len(shape) == 2 and "embed" not in name and "lm_head" not in name:
                linear.append((shape[0], shape[1]))
    if not parameters:
        raise PrefoptError(f"{directory}: holds no safetensors weights; give the directory of a model")
    most = max(dtypes, key=lambda name: dtypes[name])
    return ModelSize(parameters, size, NAMES.get(most, most.lower()), tuple(linear))


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= 100_000_000:
                raise ValueError("header")
            header = json.loads(file.read(length))
    except (OSError, ValueError):
        raise PrefoptError(f"{path}: is no safetensors file; load or copy the model again") from None
    header.pop("__metadata__", None)
    return dict(header)


def training_bytes(size: ModelSize, config: TrainConfig) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer state while training; activations and logits are not in it."""
    per = {"float32": 4, "bfloat16": 2, "float16": 2}.get(size.dtype, 4)
    per = {"float32": 4, "mixed": 4, "bfloat16": 2}.get(config.precision, per)
    trained = size.adapter(config.lora) if config.lora is not None else size.parameters
    weights = size.parameters * config.bits // 8 if config.bits else size.parameters * per
    weights += trained * per if config.lora is not None else 0
    return {"weights": weights, "gradients": trained * per, "Adam's moments": 2 * trained * per}


def learning_rates(config: TrainConfig, steps: int, parts: int = 10) -> list[float]:
    """The learning rate of the first step and of the one at each tenth of the steps; the last is the last step's."""
    warm = warm_steps(config.warmup, steps)
    places = [min(round(steps * k / parts), max(0, steps - 1)) for k in range(parts + 1)]
    return [config.peak_rate * rate(config.schedule, place, steps, warm) for place in places]


@dataclass(frozen=True)
class Speed:
    """Seconds of a forward pass per token, and of one step in which `batch` answers grow by a token. about: how it was had."""

    token_s: float
    step_s: float | None
    about: str
    batch: int = 1


def measure(directory: Path, size: ModelSize, tokens: int, batch: int) -> Speed:
    """A short probe: the model itself on random tokens where it is small, else a matrix product by whose speed it is reckoned.

    tokens: of a sequence; batch: answers that are written at once.
    """
    if size.parameters <= PROBED:
        return _by_model(directory, max(8, min(tokens, 512)), min(batch, GROWING))
    return _by_product(size)


def _by_model(directory: Path, tokens: int, batch: int) -> Speed:
    import torch

    from prefopt.models.load import default_device, load_model

    device = default_device()
    model = load_model(directory).to(device).eval()
    ids = (torch.arange(batch * tokens, device=device) % min(97, model.config.vocab_size)).reshape(
        batch, tokens
    )
    rows = max(1, min(batch, 2048 // tokens))
    with torch.inference_mode():
        model(input_ids=ids[:rows])  # the first pass also allocates
        passes = []
        for _ in range(3):
            start = _now(device)
            model(input_ids=ids[:rows])
            passes.append(_now(device) - start)
        token_s = min(passes) / (rows * tokens)
        kept = model(input_ids=ids[:, :8], use_cache=True).past_key_values
        steps = []
        for _ in range(6):
            start = _now(device)
            model(input_ids=ids[:, :1], past_key_values=kept, use_cache=True)
            steps.append(_now(device) - start)
        step_s = min(steps)  # what else the machine does is not the model's
    about = f"the model's own forward pass on {rows} x {tokens} tokens and {batch} growing answers, timed on this {device.type}"
    return Speed(token_s, step_s, about, batch)


def _now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _by_product(size: ModelSize) -> Speed:
    import torch

    from prefopt.models.load import default_device

    device = default_device()
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(size.dtype, torch.float32)
    side = 2048 if device.type == "cuda" else 768
    matrix = torch.ones(side, side, dtype=kind, device=device)
    (matrix @ matrix).sum().item()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        (matrix @ matrix).sum().item()
        count += 1
    rate = 2 * side**3 * count / (time.perf_counter() - start)
    about = f"2 operations per parameter and token at the speed of a matrix product on this {device.type}, {rate / 1e9:,.0f} GFLOP/s, a lower bound"
    return Speed(2 * size.parameters / rate, None, about)
