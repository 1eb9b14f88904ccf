"""Several processes: which strategy is meant, sharding by FSDP2, whole weights from shards, and a check of the outcome.

FSDP2 is torch's `fully_shard` on each decoder layer and on the rest of the model, the same on CPU and GPU (accelerate on the
CPU takes the request and runs DDP). Sharded weights are tensors of their own kind (`DTensor`), which is what is checked.
Checkpoints hold whole tensors under the ordinary names, so they are those of a run with one process, and any number of
processes may continue them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from prefopt.core.errors import PrefoptError
from prefopt.training.layers import decoder_layers

Strategy = Literal["none", "ddp", "fsdp2", "deepspeed"]
# every forward pass is a collective operation, so all processes must make equally many
LOCKSTEP = ("fsdp2", "deepspeed")
LAUNCH = "start it with `torchrun --nproc_per_node N` or `accelerate launch --multi_gpu`"


def check_request(strategy: str | None, deepspeed: Any) -> None:
    """Refuse what cannot be done whatever the number of processes. deepspeed: its configuration (a file or a mapping).

    Raises:
        PrefoptError: an unknown strategy, contradicting settings, DeepSpeed that is not installed or has no
            configuration, or a launcher that asks for FSDP in its own way.
    """
    if strategy is not None and strategy not in get_args(Strategy):
        raise PrefoptError(f"train.strategy: {strategy!r}; it is {', '.join(get_args(Strategy))} or null")
    if _is_set("ACCELERATE_USE_FSDP"):
        raise PrefoptError(
            "train.strategy: FSDP is asked for by the launcher, which is not read; launch without --use_fsdp and set "
            "train.strategy: fsdp2"
        )
    if deepspeed is None and not _is_set("ACCELERATE_USE_DEEPSPEED"):
        if strategy == "deepspeed":
            raise PrefoptError(
                "train.strategy: deepspeed needs its configuration; set train.deepspeed: FILE.json"
            )
        return
    if strategy not in (None, "deepspeed"):
        raise PrefoptError(
            f"train.strategy: {strategy}, but DeepSpeed is asked for too; remove one of the two"
        )
    if isinstance(deepspeed, str | Path) and not Path(deepspeed).is_file():
        raise PrefoptError(f"train.deepspeed: {deepspeed}: no such file; give DeepSpeed's JSON configuration")
    if find_spec("deepspeed") is None:
        raise PrefoptError("train.deepspeed: DeepSpeed is not installed; pip install deepspeed")


def is_bitsandbytes(optimizer: str) -> bool:
    """Whether one of the Trainer's optimizers is of bitsandbytes (8-bit states, paging)."""
    return (
        re.fullmatch(r"(paged_)?(adamw|lion|ademamix)(_bnb)?_(8|32)bit|ademamix|rmsprop_bnb.*", optimizer)
        is not None
    )


def check_optimizer(optimizer: str) -> None:
    """Refuse optimizers that cannot work on sharded weights.

    Raises:
        PrefoptError: it is one of them.
    """
    if is_bitsandbytes(optimizer):
        raise PrefoptError(
            f"train.optimizer: {optimizer} does not take sharded weights (fsdp2); use adamw_torch"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def choose_strategy(strategy: str | None, deepspeed: Any, processes: int) -> Strategy:
    """The strategy that is meant; null is DeepSpeed where it is configured, else DDP when there are several processes.

    To be called when the processes know each other.

    Raises:
        PrefoptError: a strategy that the number of processes does not allow.
    """
    grouped = dist.is_available() and dist.is_initialized()
    if strategy is None and (deepspeed is not None or _is_set("ACCELERATE_USE_DEEPSPEED")):
        return "deepspeed"
    if strategy in (None, "ddp") and processes > 1:
        return "ddp"
    if strategy in (None, "none"):
        if processes > 1:
            raise PrefoptError(
                f"train.strategy: none, but there are {processes} processes; start one, or set ddp or fsdp2"
            )
        return "none"
    if strategy == "ddp":
        raise PrefoptError(f"train.strategy: ddp needs several processes, but there is one; {LAUNCH}")
    if strategy == "fsdp2":
        if not grouped:
            raise PrefoptError(f"train.strategy: fsdp2 needs several processes, but there is one; {LAUNCH}")
        return "fsdp2"
    return "deepspeed"


def check_applied(strategy: Strategy, wrapped: nn.Module) -> None:
    """Raise unless the model that is trained is what `strategy` says.

    Raises:
        PrefoptError: it is not.
    """
    found = applied_strategy(wrapped)
    if found != strategy:
        raise PrefoptError(
            f"train.strategy: {strategy} was asked for, but the model runs as {found}; check the launcher's settings "
            "and the versions of accelerate and transformers"
        )


def applied_strategy(wrapped: nn.Module) -> str:
    """What a model that is set up for training really runs as: a strategy, or words for something in between."""
    if isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return "ddp"
    if type(wrapped).__name__ in ("DeepSpeedEngine", "PipelineEngine") and hasattr(
        wrapped, "zero_optimization_stage"
    ):
        return "deepspeed"
    weights = list(wrapped.parameters())
    sharded = [weight for weight in weights if isinstance(weight, DTensor)]
    if not sharded:
        return "none"
    size = dist.get_world_size()
    spread = all(w.device_mesh.size() == size and any(p.is_shard() for p in w.placements) for w in sharded)
    return "fsdp2" if spread and len(sharded) == len(weights) else "partly sharded"


# ---- FSDP2


def shard(model: nn.Module, device: torch.device, *, mixed: bool) -> nn.Module:
    """Shard a whole model over all processes, in place: each decoder layer by itself, then what is left.

    mixed: compute in bf16 on fp32 weights. Gradients are averaged in fp32 in any case. Every process must hold the
    same weights.

    Raises:
        PrefoptError: no decoder layers are found, or the weights cannot be sharded (quantized ones).
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if any(not weight.is_floating_point() for weight in model.parameters()):
        raise PrefoptError("train.strategy: fsdp2 cannot shard quantized weights; use ddp")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if mixed else None, reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model._is_accelerate_prepared = True  # type: ignore[assignment]  # accelerate leaves it as it is
    return model


def own_storage(tokens_of: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """`tokens_of` (see `step.StepRunner`) with results that are no views, which FSDP2 wants of a model's outputs."""

    def run(*args: Any, **kwargs: Any) -> list[Tensor]:
        return [each.clone() for each in tokens_of(*args, **kwargs)]

    return run


def whole(tensor: Any, *, keep: bool) -> Any:
    """A sharded tensor put together, on the CPU; anything else as it is. keep: false gives None for tensors.

    A collective operation: every process calls it, in the same order.
    """
    if not isinstance(tensor, Tensor):
        return tensor
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if keep else None


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict with whole tensors on the CPU, tied ones once in memory; empty but in the first process.

    A collective operation.
    """
    keep = dist.get_rank() == 0
    first = tied_names(model)
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        tied = first.get(name, name)
        found[name] = found[tied] if tied in found else whole(value, keep=keep)
    return found if keep else {}


def tied_names(model: nn.Module) -> dict[str, str]:
    """Each weight's name -> the first name of the same weight."""
    names: dict[int, str] = {}
    return {name: names.setdefault(id(w), name) for name, w in model.named_parameters(remove_duplicate=False)}


def whole_state(state: Any, *, keep: bool) -> Any:
    """An optimizer's state dict with whole tensors on the CPU; a collective operation, see `whole`."""
    if isinstance(state, Mapping):
        return {key: whole_state(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value, keep=keep) for value in state)
    return whole(state, keep=keep)


def like(tensor: Tensor, weight: Tensor) -> Tensor:
    """`tensor` sharded as `weight` is; every process cuts its own part, without communication."""
    if not isinstance(weight, DTensor) or tensor.shape != weight.shape:
        return tensor
    tensor = tensor.to(weight.to_local().device)
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path) -> None:
    """Read a checkpoint's weights (whole tensors, of the model or of its adapter) into a sharded model.

    Raises:
        PrefoptError: the checkpoint lacks a trained weight or is of another model.
    """
    stored = dict(_stored(folder))
    is_adapter = hasattr(model, "peft_config")
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(_adapter_name(name) if is_adapter else name)
    for weight in model.parameters():
        found = [name for name in names[id(weight)] if name in stored]
        if not found and is_adapter and not weight.requires_grad:
            continue
        if not found or stored[found[0]].shape != weight.shape:
            raise PrefoptError(
                f"the checkpoint in {folder} is of another model ({names[id(weight)][0]}); remove it"
            )
        weight.copy_(like(stored[found[0]].to(weight.dtype), weight))


def _adapter_name(name: str) -> str:
    """The name under which peft stores a weight of the adapter."""
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder's weight files, mapped from the disk."""
    from safetensors import safe_open

    files = sorted(folder.glob("adapter_model*.safetensors")) or sorted(folder.glob("model*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                yield name, tensors.get_tensor(name)


def load_optimizer(optimizer: Any, file: Path) -> None:
    """Read an optimizer's state of whole tensors (`whole_state`) into the optimizer of a sharded model."""
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    ids = [index for group in state["param_groups"] for index in group["params"]]
    for index, weight in zip(ids, weights, strict=True):
        mine = state["state"].get(index, {})
        for name, value in mine.items():
            mine[name] = like(value, weight) if isinstance(value, Tensor) else value
    optimizer.load_state_dict(state)
