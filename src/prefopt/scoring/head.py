"""LM head and log-softmax in one: log-probs of given tokens, with the gradient formed in place.

What autograd keeps for log-softmax and gather are several arrays of logits' size; here it is one, exp(logits - max), which
the backward pass turns into d loss / d logits where it lies: g_i (1[v = target_i] - p_iv). Above `KEPT_ELEMENTS` not even
that is kept: chunks are computed anew, and the weight's gradient is added up in one array.

Shapes: N answer tokens, C of a chunk, H hidden width, V vocabulary. Log-probs in nats, fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prefopt.scoring.body import head_of, unwrap
from prefopt.scoring.logprobs import default_chunk_tokens, head_logps, head_scale
from prefopt.scoring.workspace import Workspace, add_product

# 128 MiB of fp32 probabilities between forward and backward
KEPT_ELEMENTS = 2**25


def fused_head_logps(
    model: nn.Module,
    hidden_NH: Tensor,
    targets_N: Tensor,
    *,
    chunk_tokens: int | None = None,
    squares: bool = False,
    workspace: Workspace | None = None,
) -> Tensor:
    """`logprobs.head_logps`, by the fused function where the head is a plain matrix, else as it stands.

    Not plain are heads with an adapter, a bias or hooks, logits that are scaled or capped, and autocast. workspace: of
    the trainer (default: nothing is kept between calls, and gradients go through autograd).
    """
    causal = unwrap(model)
    head: Any = head_of(causal)
    if squares or not is_plain(head, causal.config, hidden_NH):
        return head_logps(model, hidden_NH, targets_N, chunk_tokens=chunk_tokens, squares=squares)
    size = chunk_tokens or default_chunk_tokens(head.weight.shape[0], hidden_NH.device)
    return FusedHead.apply(
        hidden_NH, head.weight, targets_N, size, chunk_tokens is None, workspace or Workspace()
    )


def is_plain(head: nn.Module, config: Any, hidden_NH: Tensor) -> bool:
    """Whether the log-probs are log-softmax of hidden @ weight.T and nothing else happens on the way."""
    if type(head) is not nn.Linear or head.bias is not None or type(head.weight) is not nn.Parameter:
        return False
    if head._forward_hooks or head._forward_pre_hooks or head.weight.dtype != hidden_NH.dtype:
        return False
    probe = torch.tensor([1.0, -2.0])
    is_scaled = not torch.equal(head_scale(config)(probe), probe)
    return not is_scaled and not torch.is_autocast_enabled(hidden_NH.device.type)


class FusedHead(torch.autograd.Function):
    """Log-probs [N] of targets [N] for hidden states [N, H] and a head of weight [V, H]; one backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk_tokens: int,
        may_keep: bool,
        workspace: Workspace,
    ) -> Tensor:
        """chunk_tokens: rows of logits at a time. may_keep: hold what the backward pass needs if it is small."""
        wants = any(ctx.needs_input_grad[:2])
        keeps = wants and may_keep and len(targets) * weight.shape[0] <= KEPT_ELEMENTS
        logps, kept = [], []
        for rows, wanted in zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
            values, exps, sums = _chunk(rows, weight, wanted, workspace)
            logps.append(values)
            if keeps:
                kept.append((exps, sums))
            else:
                workspace.give(exps)
        if wants:
            ctx.save_for_backward(hidden, weight, targets)
        # the parameter itself: what is saved for the backward pass may come back as a copy
        ctx.parameter = weight if workspace.may_add(weight) else None
        ctx.chunk_tokens, ctx.kept, ctx.keeps, ctx.workspace = chunk_tokens, kept, keeps, workspace
        return torch.cat(logps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients of hidden states and weight; overwrites what the forward pass kept."""
        (hidden, weight, targets), workspace = ctx.saved_tensors, ctx.workspace
        if ctx.keeps and not ctx.kept:
            raise RuntimeError("the fused head's gradient can be taken once; run the forward pass again")
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_grads = []
        weight_grad: Tensor | None = None
        parts = [part.split(ctx.chunk_tokens) for part in (hidden, targets, grad)]
        for index, (rows, wanted, slope) in enumerate(zip(*parts, strict=True)):
            exps, sums = ctx.kept[index] if ctx.keeps else _chunk(rows, weight, wanted, workspace)[1:]
            # d logp_i / d logit_iv = 1[v = target_i] - p_iv
            logits_grad = exps.mul_(-(slope / sums)[:, None])
            logits_grad.scatter_add_(1, wanted[:, None], slope[:, None])
            logits_grad = logits_grad.to(weight.dtype)
            if wants_hidden:
                hidden_grads.append(logits_grad @ weight)
            if wants_weight and ctx.parameter is not None:
                add_product(ctx.parameter, logits_grad, rows)
            elif wants_weight:  # the first chunk's product is the sum's start: no pass over zeros
                weight_grad = (
                    logits_grad.T @ rows if weight_grad is None else weight_grad.addmm_(logits_grad.T, rows)
                )
            workspace.give(exps)
        ctx.kept = []
        return torch.cat(hidden_grads) if wants_hidden else None, weight_grad, *[None] * 4


def _chunk(
    rows_CH: Tensor, weight_VH: Tensor, targets_C: Tensor, workspace: Workspace
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs [C], exp(logits - max) [C, V] (up to a factor per row) and its sums [C], fp32."""
    if rows_CH.device.type == "cpu" and rows_CH.dtype is torch.float32:
        logits_CV = workspace.take(len(rows_CH), len(weight_VH))
        torch.mm(rows_CH, weight_VH.T, out=logits_CV)
    else:
        logits_CV = rows_CH @ weight_VH.T
    if logits_CV.dtype in (torch.bfloat16, torch.float16):
        # one pass from half precision to fp32 log-probs, where the steps below would make five
        logps_CV = logits_CV.log_softmax(1, dtype=torch.float32)
        found = logps_CV.gather(1, targets_C[:, None])[:, 0]
        return found, logps_CV.exp_(), torch.ones_like(found)
    logits_CV = logits_CV.float()
    chosen = logits_CV.gather(1, targets_C[:, None])[:, 0]
    top = logits_CV.amax(1)
    exps = logits_CV.sub_(top[:, None]).exp_()
    sums = exps.sum(1)
    return chosen - top - sums.log(), exps, sums
