"""Adapter directories (PEFT): found on their base, put into its weights; and bases held in 4 bits (QLoRA).

An adapter directory holds `adapter_config.json` and `adapter_model.safetensors` and names its base, which may be an
adapter directory itself.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from prefopt.core.errors import PrefoptError, out_of_memory

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# of adapter_config.json, but not about what is computed
VOLATILE = frozenset({"base_model_name_or_path", "inference_mode", "peft_version", "revision"})


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter alone, without the model that it belongs to."""
    return (path / CONFIG).is_file() and not (path / "config.json").exists()


def adapter_settings(path: Path) -> dict[str, Any]:
    """What `adapter_config.json` says.

    Raises:
        PrefoptError: it is damaged, or the weights are missing or no safetensors.
    """
    try:
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrefoptError(f"{path / CONFIG}: cannot be read ({error}); save the adapter anew") from None
    if not isinstance(settings, dict):
        raise PrefoptError(f"{path / CONFIG}: no JSON object; save the adapter anew")
    if not (path / WEIGHTS).is_file():
        raise PrefoptError(f"{path}: no adapter weights ({WEIGHTS}); save the adapter as safetensors")
    return settings


def base_of(path: Path) -> Path:
    """Directory of the model that an adapter belongs to: as its config names it, or seen from the adapter.

    Raises:
        PrefoptError: the config names none, it is not found, or following it leads back to an adapter on the way.
    """
    seen = [path.resolve()]
    base = found = _named_base(path)
    while is_adapter(found):
        if found.resolve() in seen:
            raise PrefoptError(
                f"{path / CONFIG}: the base of this adapter leads back to {found}, so there is no model below it; name the "
                "model it was trained on in base_model_name_or_path"
            )
        seen.append(found.resolve())
        found = _named_base(found)
    return base


def _named_base(path: Path) -> Path:
    from prefopt.models.find import resolve_model

    name = adapter_settings(path).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise PrefoptError(
            f"{path / CONFIG}: names no base model; run `prefopt merge-adapter --adapter {path} --model BASE`"
        )
    beside = path / name
    if not Path(name).is_absolute() and beside.is_dir():
        return beside
    try:
        return resolve_model(name)
    except PrefoptError as error:
        raise PrefoptError(
            f"{path}: the base of this adapter is not found ({error}); run `prefopt merge-adapter --adapter {path} "
            "--model BASE`"
        ) from None


def put_in(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """The model with the adapter added into its weights, in their dtype.

    Raises:
        PrefoptError: the adapter does not fit the model, or its kind cannot be merged.
    """
    from peft import PeftModel

    adapter_settings(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted: Any = PeftModel.from_pretrained(model, str(path), use_safetensors=True)
            merged = merged_weights(adapted)
    except PrefoptError:
        raise
    except Exception as error:  # peft has no common class of errors
        if out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise PrefoptError(
            f"{path}: the adapter does not go into its base ({reason.strip()}); give the model it was trained on"
        ) from None
    merged.name_or_path = merged.config._name_or_path = str(
        path
    )  # an adapter trained on top is of this model
    return merged.eval()


def merged_weights(adapted: Any) -> Any:
    """The model within a PEFT model, its adapter added into the weights.

    A head that is tied to the embedding and has an adapter is untied, since the embedding has none.

    Raises:
        ValueError: weights that are not finite.
    """
    model = adapted.get_base_model()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    layer = getattr(head, "base_layer", None)
    if layer is not None and layer.weight is embedding.weight:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    return adapted.merge_and_unload(safe_merge=True)


def save_arguments(model: Any) -> dict[str, Any]:
    """Arguments of `save_pretrained`: of an adapter without the embeddings, which are not trained."""
    return {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}


def quantization(dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights in 4 bits: nf4, doubly quantized (QLoRA, 2305.14314).

    dtype: of the arithmetic.

    Raises:
        PrefoptError: no CUDA device, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise PrefoptError("train.load_in_4bit: there is no CUDA device; set it to false")
    if find_spec("bitsandbytes") is None:
        raise PrefoptError("train.load_in_4bit: bitsandbytes is not installed; pip install 'prefopt[qlora]'")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}
