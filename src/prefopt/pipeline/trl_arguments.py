"""Settings of transformers' TrainingArguments, and of TRL's DPOConfig among them, as settings of ours.

What changes what is trained is taken over or refused; what only says how TRL does its work (padding, processes that
tokenize, when reference log-probs are computed) has no counterpart and no effect.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from transformers import TrainingArguments

from prefopt.core.errors import PrefoptError
from prefopt.losses import LOSSES

logger = logging.getLogger("prefopt")
# their defaults are not ours, so that they are taken over even where nothing was set
ALWAYS = ("learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_steps", "logging_steps")
# recomputing activations under its two names: newer releases of transformers warn of the older one
RECOMPUTE = ("gradient_checkpointing", "activation_checkpointing")
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
# how, not what
WITHOUT_EFFECT = frozenset({
    *BATCH,
    "per_device_eval_batch_size",
    "dataset_num_proc",
    "padding_free",
    "pad_to_multiple_of",
    "pad_token",
    "precompute_ref_log_probs",
    "precompute_ref_batch_size",
    "remove_unused_columns",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "logging_nan_inf_filter",
    "average_tokens_across_devices",
    "label_names",
    "include_num_input_tokens_seen",
    *RECOMPUTE,
    "use_liger_kernel",
})  # fmt: skip
LOSS = (
    *("loss_type", "loss_weights", "beta", "label_smoothing", "ld_alpha", "use_weighting", "discopop_tau"),
    *("f_divergence_type", "f_alpha_divergence_coef"),
)
NO_LIMIT = 10**6  # tokens, for max_length None


def converted(args: TrainingArguments, kind: type) -> tuple[dict[str, Any], Any]:
    """(fields of `kind`, our settings; the loss in the form of a recipe, None where they say nothing of it).

    Raises:
        PrefoptError: a setting that changes what is trained and has no counterpart here.
    """
    plain = TrainingArguments(output_dir=args.output_dir, use_cpu=args.use_cpu)
    known = {item.name for item in dataclasses.fields(kind) if item.init}
    of_dpo = hasattr(args, "loss_type") and hasattr(args, "f_divergence_type")
    found: dict[str, Any] = {"output_dir": args.output_dir}
    for item in dataclasses.fields(args):
        name, value = item.name, getattr(args, item.name)
        if not item.init or name in WITHOUT_EFFECT or (of_dpo and (name in LOSS or name in _RENAMED)):
            continue
        if name in ALWAYS or value != getattr(plain, name, _default(item)):
            if name not in known:
                _refuse(name, value)
            found[name] = value
    found["pairs_per_step"] = (
        args.per_device_train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)
    )
    if any(getattr(args, name, False) for name in RECOMPUTE):
        found[next(name for name in reversed(RECOMPUTE) if name in known)] = True
    if not of_dpo:
        return found, None
    return found | _renamed(args), _loss(args)


_RENAMED = (
    *("max_length", "activation_offloading", "router_aux_loss_coef", "truncation_mode", "model_init_kwargs"),
    *("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "trust_remote_code"),
)


def _default(item: Any) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def _renamed(args: Any) -> dict[str, Any]:
    """Settings of DPOConfig that have another name here."""
    found: dict[str, Any] = {"max_length": NO_LIMIT if args.max_length is None else args.max_length}
    refused = {"truncation_mode": "keep_start", "model_init_kwargs": None, "trust_remote_code": False}
    for name, plain in refused.items():
        if getattr(args, name, plain) not in (plain, {}):
            _refuse(name, getattr(args, name))
    if args.activation_offloading:
        found["activation_offload"] = True
    if args.router_aux_loss_coef:
        found["router_loss"] = args.router_aux_loss_coef
    if args.sync_ref_model:
        found["sync_reference"] = {
            "alpha": args.ref_model_mixup_alpha,
            "every_steps": args.ref_model_sync_steps,
        }
    return found


def _loss(args: Any) -> list[dict[str, Any]]:
    """Loss types and their settings as the terms of a recipe."""
    names = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    weights = args.loss_weights or [1.0] * len(names)
    return [_term(name, weight, args) for name, weight in zip(names, weights, strict=True)]


def _term(name: str, weight: float, args: Any) -> dict[str, Any]:
    smoothing = args.label_smoothing or 0.0
    ours = "cdpo" if name == "sigmoid" and smoothing else name
    if ours not in LOSSES:
        raise PrefoptError(f"loss_type {name!r} has no counterpart; give the loss to the Trainer: loss=...")
    if name == "sft":
        logger.warning(
            "loss_type sft: every answer counts the same here (nll), TRL counts every token the same"
        )
    hyper = LOSSES[ours].defaults
    term: dict[str, Any] = {"name": ours}
    if weight != 1.0:
        term["scale"] = weight
    if "beta" in hyper:
        term["beta"] = args.beta
    if smoothing:
        if "label_smoothing" not in hyper:
            raise PrefoptError(f"label_smoothing is not for loss_type {name!r}; remove it")
        term["label_smoothing"] = smoothing
    if "tau" in hyper:
        term["tau"] = args.discopop_tau
    divergence = getattr(args.f_divergence_type, "value", args.f_divergence_type)
    if divergence != "reverse_kl" and "link" in hyper:
        is_alpha = divergence == "alpha_divergence"
        term["link"] = (
            {"name": "alpha", "alpha": args.f_alpha_divergence_coef} if is_alpha else _LINKS[divergence]
        )
    if LOSSES[ours].kind == "pairwise":
        if args.ld_alpha is not None:
            term["ld_alpha"] = args.ld_alpha
        if args.use_weighting:
            term["wpo"] = True
    return term


_LINKS = {"js_divergence": "js", "forward_kl": "forward_kl", "reverse_kl": "reverse_kl"}


def _refuse(name: str, value: Any) -> None:
    raise PrefoptError(
        f"args.{name} = {value!r} has no counterpart here; remove it (docs/from-trl.md lists what has)"
    )
