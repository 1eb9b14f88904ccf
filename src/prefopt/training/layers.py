"""Decoder layers of a model: finding and compiling them, and holding what they keep for the backward pass on the host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from prefopt.core.errors import PrefoptError
from prefopt.scoring.body import unwrap

# smaller tensors cost more in the transfer than they free
MIN_BYTES = 4096


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a causal LM, first to last.

    Raises:
        PrefoptError: the model keeps them in a way that is not known.
    """
    causal = unwrap(model)
    count = causal.config.get_text_config().num_hidden_layers
    for module in causal.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise PrefoptError(f"models of type {causal.config.model_type!r}: their decoder layers are not found")


def compile_layers(model: nn.Module, backend: str) -> None:
    """Compile each decoder layer in place (`torch.compile`), for rows of any length; names of weights stay.

    Layers are alike, so the first compilation serves all of them; head and loss have their own fused function.

    Raises:
        PrefoptError: there is no C++ compiler for the CPU, or the layers are not found.
    """
    layers = decoder_layers(model)
    if (
        backend == "inductor"
        and next(model.parameters()).device.type == "cpu"
        and not torch.cuda.is_available()
    ):
        _check_compiler()
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise PrefoptError(
            "train.torch_compile: no C++ compiler is found; install g++, or set torch_compile to false"
        ) from None


def activation_offload(*, from_cpu: bool = False) -> AbstractContextManager[Any]:
    """Within the block, what autograd keeps for the backward pass lies in host memory until it is needed.

    Weights and small tensors stay where they are, and so do tensors on the CPU (from_cpu: they are copied too). With
    gradient checkpointing only the inputs of layers are kept, and those are moved.
    """
    return saved_tensors_hooks(_pack(from_cpu), _unpack)


def _pack(from_cpu: bool) -> Callable[[Tensor], Any]:
    def pack(tensor: Tensor) -> Any:
        on_cpu = tensor.device.type == "cpu"
        if _is_weight(tensor) or tensor.nbytes < MIN_BYTES or (on_cpu and not from_cpu):
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return tensor.device, host.copy_(tensor, non_blocking=True)

    return pack


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    device, host = packed
    return host.to(device, non_blocking=True)


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter or a view of one."""
    base = tensor if tensor._base is None else tensor._base
    return isinstance(base, nn.Parameter) or (base.is_leaf and base.requires_grad)
