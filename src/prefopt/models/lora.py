"""Fresh LoRA adapters: peft's own settings by name, and those that change the base's weights (PiSSA, OLoRA).

PiSSA and OLoRA take a part out of the base's weights and train that: W = W_res + s B0 A0. With the adapter off such a model is
not its base, and the adapter alone fits W_res only. It is written as the plain LoRA of twice the rank that W wants:
s B A - s B0 A0 (2404.02948, appendix C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.core.errors import PrefoptError, nearest
from prefopt.models.quiet import quiet_peft

OURS = {"lora_alpha": "alpha", "lora_dropout": "dropout"}
NOT_HERE = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
)
MOVING = ("pissa", "olora")  # init_lora_weights that change the base's weights
# those that want data before training (corda, eva, lora_ga), or cannot be written as LoRA of the base (loftq)
NOT_DONE = ("corda", "eva", "lora_ga", "loftq")
INITIAL = "prefopt_initial"  # of a model whose base was changed: the adapter's first weights


def lora_settings(
    *, r: int, alpha: float, dropout: float, target_modules: str | Sequence[str], **more: Any
) -> Any:
    """peft's LoraConfig. more: further fields of it (use_dora, use_rslora, modules_to_save, init_lora_weights, ...).

    Raises:
        PrefoptError: a key that it does not have, or a value that it refuses.
    """
    from peft import LoraConfig

    known = [item.name for item in fields(LoraConfig) if item.name not in NOT_HERE]
    for key in more:
        if key in OURS:
            raise PrefoptError(f"train.lora.{key}: is `{OURS[key]}` here")
        if key not in known:
            names = ["r", "alpha", "dropout", "target_modules", "merge", "loraplus_lr_ratio", *known]
            raise PrefoptError(
                f"train.lora.{key}: unknown key, {nearest(key, names)} (peft's LoraConfig has the others)"
            )
    start = str(more.get("init_lora_weights", ""))
    if start.startswith(NOT_DONE):
        raise PrefoptError(
            f"train.lora.init_lora_weights: {start} is not done here; take pissa, olora, gaussian or true"
        )
    modules = target_modules if isinstance(target_modules, str) else list(target_modules)
    try:
        return LoraConfig(
            r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, task_type="CAUSAL_LM", **more
        )
    except (TypeError, ValueError, ImportError) as error:
        raise PrefoptError(f"train.lora: {_first_line(error)}") from None


def add_adapter(model: Any, **settings: Any) -> Any:
    """The model with a fresh LoRA adapter (2106.09685), all other weights frozen; its output is unchanged at first.

    settings: as `lora_settings` takes them; target_modules is "all-linear" (all but the LM head) or names of layers.

    Raises:
        PrefoptError: no layer has such a name, or settings that the model cannot take.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    config = lora_settings(**settings)
    weights = _sums(model) if set(settings) - {"r", "alpha", "dropout", "target_modules"} else {}
    try:
        with quiet_peft():
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError, ImportError, RuntimeError, NotImplementedError, AttributeError) as error:
        name = "train.lora" if weights else "train.lora.target_modules"
        raise PrefoptError(f"{name}: {_first_line(error)}") from None
    if any(float(weight.detach().double().sum()) != total for weight, total in weights.values()):
        first = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        setattr(adapted, INITIAL, {name: value.detach().clone() for name, value in first.items()})
    return adapted


def base_is_kept(model: nn.Module) -> bool:
    """Whether a model is its base when its adapter is off: no weight of it was changed, no bias of it is trained."""
    config = getattr(model, "peft_config", {}).get("default")
    return not hasattr(model, INITIAL) and getattr(config, "bias", "none") == "none"


def _sums(model: nn.Module) -> dict[str, tuple[nn.Parameter, float]]:
    """The matrices with their sums, by which a change is seen."""
    return {
        name: (weight, float(weight.detach().double().sum()))
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and weight.is_floating_point()
    }


def save_arguments(model: Any) -> dict[str, Any]:
    """Arguments of `save_pretrained` for checkpoints: of an adapter without the embeddings, which are not trained."""
    return {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}


def save_adapter(model: Any, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write an adapter without the embeddings, which are not trained; one of a changed base as plain LoRA of its base."""
    first = getattr(model, INITIAL, None)
    if first is None:
        model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
        return
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    from prefopt.models.adapters import WEIGHTS

    last = get_peft_model_state_dict(model, state_dict=state_dict, save_embedding_layers=False)
    found = {name: _difference(name, value, first[name]) for name, value in last.items()}
    config = _doubled(model.peft_config["default"])
    config.save_pretrained(folder)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in found.items()},
        folder / WEIGHTS,
        {"format": "pt"},
    )


def _difference(name: str, last: Tensor, first: Tensor) -> Tensor:
    """s B A - s B0 A0 as one product: [A; A0] and [B, -B0]."""
    if "lora_A" in name or "lora_embedding_A" in name:
        return torch.cat([last, first.to(last.device)], dim=0)
    if ("lora_B" in name or "lora_embedding_B" in name) and last.ndim == 2:
        return torch.cat([last, -first.to(last.device)], dim=1)
    return last


def _doubled(config: Any) -> Any:
    """The settings of twice the rank at the same scale."""
    config = deepcopy(config)
    scale = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, scale * config.lora_alpha, True
    config.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {name: scale * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    config.inference_mode = True
    return config


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
