"""What a row's forward and backward pass need not allocate anew: logits, and gradients as large as the vocabulary.

On a CPU the first touch of fresh memory takes longer than the arithmetic on it (the system clears every page), and C
libraries give large arrays back as soon as they are freed. So buffers of logits are kept from row to row, and gradients
of the embedding and of the head are added where they lie, not formed as arrays of their own and added afterwards.

Shapes: T tokens of a row, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Workspace:
    """A buffer for logits, and whether gradients may be added in place.

    adds_gradients: `.grad` of embedding and head is written by the backward pass itself, so nothing that autograd
    does with a parameter's gradient happens (DDP's exchange, hooks, `torch.autograd.grad`). For one process that
    calls `backward`, as the trainer does.
    """

    def __init__(self, *, adds_gradients: bool = False) -> None:
        self.adds_gradients = adds_gradients
        self._spare: Tensor | None = None

    def take(self, rows: int, columns: int) -> Tensor:
        """An fp32 array [rows, columns] on the CPU of any content."""
        wanted = rows * columns
        if self._spare is None or self._spare.numel() < wanted:
            self._spare = None  # let go before the larger one is asked for
            return torch.empty(rows, columns)
        flat, self._spare = self._spare, None
        return flat[:wanted].view(rows, columns)

    def give(self, array: Tensor) -> None:
        """Hand an array back whose content may change from now on; the largest is kept."""
        if array.device.type != "cpu" or array.dtype is not torch.float32:
            return
        flat = torch.empty(0).set_(array.untyped_storage())
        if self._spare is None or self._spare.numel() < flat.numel():
            self._spare = flat

    def may_add(self, weight: Any) -> bool:
        """Whether the gradient of `weight` can be added in place: a parameter that nobody listens to."""
        return (
            self.adds_gradients
            and type(weight) is nn.Parameter
            and not weight._backward_hooks
            and not getattr(weight, "_post_accumulate_grad_hooks", None)
        )

    def embeds(self, embedding: nn.Module) -> bool:
        """Whether `embed` can stand for a module: a plain matrix on the CPU (elsewhere nothing is gained)."""
        return (
            type(embedding) is nn.Embedding
            and embedding.weight.device.type == "cpu"
            and embedding.max_norm is None
            and not (embedding.sparse or embedding.scale_grad_by_freq)
            and not (embedding._forward_hooks or embedding._forward_pre_hooks)
            and self.may_add(embedding.weight)
        )


def embed(ids: Tensor, embedding: nn.Embedding) -> Tensor:
    """`embedding(ids)`, whose backward pass adds to the weight's gradient the rows that were read and no others."""
    return _Embed.apply(ids, embedding.weight, embedding.padding_idx)


class _Embed(torch.autograd.Function):
    """Rows [..., H] of a weight [V, H]."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None) -> Tensor:
        ctx.ids, ctx.weight, ctx.padding = ids, weight, padding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        ids, grad = ctx.ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        if ctx.padding is not None:  # as nn.Embedding does, padding does not learn
            kept = ids != ctx.padding
            ids, grad = ids[kept], grad[kept]
        if ctx.weight.grad is None:
            ctx.weight.grad = torch.zeros_like(ctx.weight)
        ctx.weight.grad.index_add_(0, ids, grad.to(ctx.weight.dtype))
        return None, None, None


def add_product(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left.T @ right [V, H] to the gradient of `weight`."""
    if weight.grad is None:
        weight.grad = left.T @ right
    else:
        weight.grad.addmm_(left.T, right)
