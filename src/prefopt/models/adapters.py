"""Adapter directories (PEFT): found on their base, put into its weights; and bases held in 4 or 8 bits.

An adapter directory holds `adapter_config.json` and `adapter_model.safetensors` and names its base, which may be an
adapter directory itself.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from prefopt.core.errors import PrefoptError, out_of_memory
from prefopt.core.notice import notice
from prefopt.models.quiet import quiet_peft, seeded

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

    settings = adapter_settings(path)
    if str(settings.get("init_lora_weights")).startswith("pissa_niter"):
        notice(
            f"{path}: begun by a randomised decomposition of its base ({settings['init_lora_weights']}), which is made again: "
            "the model is near the trained one, not the same; save the adapter converted to LoRA, or merged"
        )
    try:
        with quiet_peft(), seeded(0):
            warnings.filterwarnings("error", "Found missing adapter keys")
            _fit_vocabulary(model, path)
            adapted: Any = PeftModel.from_pretrained(model, str(path), use_safetensors=True)
            _load_embeddings(adapted, path / WEIGHTS)
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


def _fit_vocabulary(model: PreTrainedModel, path: Path) -> None:
    """Give embedding and head the rows of an adapter that was trained on a base with more tokens (or fewer).

    Raises:
        PrefoptError: the adapter does not bring those rows.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    places = [names[id(module)] for module in (embedding, head) if id(module) in names]
    shapes = _shapes_of(path / WEIGHTS)
    own = embedding.weight.shape[0]
    whole, parts = [], []
    for place in places:
        whole += [
            shapes[name][0] for name in (f"{place}.weight", f"{place}.base_layer.weight") if name in shapes
        ]
        parts += [shapes[name][1] for name in (f"{place}.lora_embedding_A",) if name in shapes]
        parts += [shapes[name][0] for name in (f"{place}.lora_B.weight",) if name in shapes]
    wanted = next((size for size in (*whole, *parts) if size != own), own)
    if wanted == own:
        return
    # saved whole, or (a tied head) with the embedding
    is_tied = f"{places[0]}.weight" in shapes and head is not None and head.weight is embedding.weight
    if wanted > own and len(whole) < len(places) and not is_tied:
        raise PrefoptError(
            f"{path}: belongs to a base with {wanted} rows of embedding, but {model.name_or_path} has {own}, and the adapter "
            "does not hold the others; give the base that was made longer, or save the adapter with its embedding "
            "(save_embedding_layers)"
        )
    model.resize_token_embeddings(wanted, mean_resizing=False)


def _load_embeddings(adapted: nn.Module, file: Path) -> None:
    """Take the embedding and head of a base that was made longer, which peft saves and does not always read."""
    from safetensors import safe_open

    weights = dict(adapted.named_parameters())
    with safe_open(file, framework="pt") as tensors, torch.no_grad():
        for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
            if name in weights:
                weights[name].copy_(tensors.get_tensor(name))


def _shapes_of(file: Path) -> dict[str, list[int]]:
    """Name within the base model -> shape, of an adapter's tensors."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return {
            name.removeprefix("base_model.model."): tensors.get_slice(name).get_shape()
            for name in tensors.keys()  # noqa: SIM118 (safe_open is no mapping)
        }


def merged_weights(adapted: Any) -> Any:
    """The model within a PEFT model, its adapter added into the weights.

    Head and embedding that are tied in the base are untied where the adapter has made them differ.

    Raises:
        ValueError: weights that are not finite.
    """
    model = adapted.get_base_model()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    layer = getattr(head, "base_layer", None)
    if layer is not None and layer.weight is getattr(embedding, "base_layer", embedding).weight:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    with quiet_peft():
        merged = adapted.merge_and_unload(safe_merge=True)
    head, embedding = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = False
    return merged


Bits = Literal[4, 8]


def quantization(dtype: torch.dtype, bits: Bits) -> dict[str, Any]:
    """Arguments of `from_pretrained` for quantized weights: nf4, doubly quantized (QLoRA, 2305.14314), or LLM.int8
    (2208.07339).

    dtype: of the arithmetic.

    Raises:
        PrefoptError: no CUDA device, or bitsandbytes is not installed.
    """
    setting = f"train.load_in_{bits}bit"
    if not torch.cuda.is_available():
        raise PrefoptError(f"{setting}: there is no CUDA device; set it to false")
    if find_spec("bitsandbytes") is None:
        raise PrefoptError(f"{setting}: bitsandbytes is not installed; pip install 'prefopt[qlora]'")
    from transformers import BitsAndBytesConfig

    settings = (
        BitsAndBytesConfig(load_in_8bit=True)
        if bits == 8
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}
