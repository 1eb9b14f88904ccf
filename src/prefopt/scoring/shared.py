"""Log-probs of answers on packed rows: a prompt is computed once for all its answers, and nothing is padded.

Same values and gradients as one sequence at a time (`logprobs`), to rounding. Whether a model can share, and which mask
it takes, is decided by `check_sharing`, which compares one row with the plain forward; a model that cannot share runs its
sequences one by one, unpadded, and says so.

Shapes: B sequences, T tokens of a row, N answer tokens of a row. All log-probs in nats, fp32.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from prefopt.core.errors import PrefoptError
from prefopt.models.marks import plain_ids
from prefopt.scoring.body import body_of, body_states, unwrap, why_plain
from prefopt.scoring.head import fused_head_logps
from prefopt.scoring.logprobs import (
    CHECK_TOKENS,
    HALF_TOLERANCE_NATS,
    REFUSALS,
    TOLERANCE_NATS,
    Pair,
    token_logps,
)
from prefopt.scoring.masks import MaskForm, cannot_share, make_mask, mask_forms
from prefopt.scoring.packing import Row, pack_sequences
from prefopt.scoring.router import RouterTap
from prefopt.scoring.segments import attention_of, candidates, set_attention
from prefopt.scoring.workspace import Workspace

logger = logging.getLogger("prefopt.shared")


@dataclass(frozen=True)
class Sharing:
    """How a model runs packed rows. form: of its mask; None: it cannot share, for `reason`."""

    form: MaskForm | None
    reason: str = ""

    def __str__(self) -> str:
        return str(self.form) if self.form else f"one sequence at a time: {self.reason}"


def packed_logps(
    model: nn.Module,
    sequences: Sequence[Pair],
    *,
    max_tokens_per_row: int,
    sharing: Sharing | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Summed log-probs [B] of the answers given their prompts, nats, fp32, differentiable.

    sequences: (prompt ids, answer ids); those with equal prompt ids share its computation. max_tokens_per_row: tokens
    of one forward pass (a longer sequence stands alone). sharing: from `check_sharing` (default: by the model's
    config alone).

    Raises:
        ValueError: an empty prompt or answer, or no sequence.
    """
    logps = packed_token_logps(
        model,
        sequences,
        max_tokens_per_row=max_tokens_per_row,
        sharing=sharing,
        chunk_tokens=chunk_tokens,
    )
    return torch.stack([each.sum() for each in logps])


def packed_token_logps(
    model: nn.Module,
    sequences: Sequence[Pair],
    *,
    max_tokens_per_row: int,
    sharing: Sharing | None = None,
    chunk_tokens: int | None = None,
    squares: bool = False,
    router: RouterTap | None = None,
    workspace: Workspace | None = None,
) -> list[Tensor]:
    """Per-token log-probs of each answer, a list of B tensors [answer tokens]; the rest as `packed_logps`.

    squares, router: as `logprobs.token_logps` takes them. workspace: of a trainer.
    """
    if sharing is None:
        sharing = sharing_by_config(model)
    if sharing.form is None:
        alone = []
        for place, sequence in enumerate(sequences):
            tap = router.only(place) if router else None
            alone += token_logps(model, [sequence], chunk_tokens=chunk_tokens, squares=squares, router=tap)
            if router and tap:
                router.join(tap)
        return alone
    found: dict[int, Tensor] = {}
    for row in pack_sequences(sequences, max_tokens_per_row, pad_to=sharing.form.pad_to):
        logps = row_logps(
            model,
            row,
            sharing.form,
            chunk_tokens=chunk_tokens,
            squares=squares,
            router=router,
            workspace=workspace,
        )
        found.update(zip(row.places, logps.split(row.lengths), strict=True))
    return [found[place] for place in range(len(sequences))]


def row_logps(
    model: nn.Module,
    row: Row,
    form: MaskForm,
    *,
    chunk_tokens: int | None = None,
    squares: bool = False,
    router: RouterTap | None = None,
    workspace: Workspace | None = None,
) -> Tensor:
    """Log-probs [N] of all answer tokens of a row, answer by answer, nats, fp32, differentiable."""
    weight = next(model.parameters())
    device = weight.device
    ids, positions = (torch.from_numpy(part)[None].to(device) for part in (row.input_ids, row.position_ids))
    mask = make_mask(form, row, weight.dtype, device)
    tap = None if router is None else (router, router.weights_of_row(row))
    hidden_TH = body_states(model, ids, mask, positions, tap, workspace)[0]
    columns, targets = (torch.from_numpy(part).to(device) for part in (row.columns, row.targets))
    return fused_head_logps(
        model,
        hidden_TH[columns],
        targets,
        chunk_tokens=chunk_tokens,
        squares=squares,
        workspace=workspace,
    )


@torch.no_grad()
def packed_score(
    model: nn.Module,
    sequences: Sequence[Pair],
    max_tokens_per_row: int,
    *,
    sharing: Sharing | None = None,
) -> list[float]:
    """Summed log-probs of the answers, nats, without gradient, in the order given; `logprobs.score` on packed rows."""
    cuts = [(len(answer),) for _, answer in sequences]
    return [sums[0] for sums in packed_score_cuts(model, sequences, cuts, max_tokens_per_row, sharing)]


@torch.no_grad()
def packed_score_cuts(
    model: nn.Module,
    sequences: Sequence[Pair],
    cuts: Sequence[Sequence[int]],
    max_tokens_per_row: int,
    sharing: Sharing | None = None,
) -> list[list[float]]:
    """`packed_score`, for each sequence over its first `cuts` answer tokens: one sum per cut, nats."""
    was_training = model.training
    model.eval()
    try:
        logps = packed_token_logps(
            model,
            sequences,
            max_tokens_per_row=max_tokens_per_row,
            sharing=sharing,
            workspace=Workspace(),
        )
        return [[float(each[:cut].sum()) for cut in mine] for each, mine in zip(logps, cuts, strict=True)]
    finally:
        model.train(was_training)


def sharing_by_config(model: nn.Module) -> Sharing:
    """What a model's class and config say, unchecked."""
    causal, body = unwrap(model), body_of(model)
    reason = cannot_share(causal) or why_plain(causal)
    if reason is None and body is not None and "position_ids" not in signature(body.forward).parameters:
        reason = "it takes no position ids"
    return Sharing(None, reason) if reason else Sharing(mask_forms(causal.config)[0])


@torch.no_grad()
def check_sharing(model: nn.Module, sequences: Sequence[Pair], workspace: Workspace | None = None) -> Sharing:
    """Find out how `model` shares prefixes: one packed row of `sequences` must give the plain forward's log-probs.

    sequences: what will be run; the longest are used, so that a sliding window is met where it will be. workspace:
    with which it will be run. The outcome is logged, as a warning where the model cannot share.

    Raises:
        PrefoptError: log-probs of the plain forward are not finite.
    """
    proposal = sharing_by_config(model)
    if proposal.form is None:
        return _unshared(unwrap(model).config.model_type, proposal.reason)
    trial = trial_row(sequences)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            return _tried(model, trial, workspace)
    finally:
        model.train(was_training)


def _tried(model: nn.Module, trial: Sequence[Pair], workspace: Workspace | None) -> Sharing:
    """The first attention and mask form that give the plain forward's log-probs, or none.

    The model keeps the attention that was found, else its own.
    """
    causal = unwrap(model)
    plain = torch.cat([token_logps(model, [sequence])[0] for sequence in trial])
    if not bool(plain.isfinite().all()):
        raise PrefoptError(
            "the model's log-probs are not finite; its weights hold NaN, or need dtype float32"
        )
    limit = TOLERANCE_NATS.get(next(model.parameters()).dtype, HALF_TOLERANCE_NATS)
    kind = causal.config.model_type
    least = float("inf")
    for attention in candidates(causal):
        set_attention(causal, attention)
        for form in mask_forms(causal.config):
            difference = _difference(model, trial, form, plain, workspace)
            least = min(least, difference)
            if difference <= limit:
                logger.info(
                    "shared prefixes: %s, %s (%s), checked to %.1g nats per token",
                    attention_of(causal), form, kind, difference,
                )  # fmt: skip
                return Sharing(form)
    return _unshared(kind, f"packed rows differ from the plain forward by {least:.2g} nats per token")


def trial_row(sequences: Sequence[Pair]) -> list[Pair]:
    """Three sequences that share and do not share: the longest prompt with two answers, and another prompt."""
    longest = max(sequences, key=lambda pair: len(pair[0]) + len(pair[1]))
    shortest = min(sequences, key=lambda pair: len(pair[0]) + len(pair[1]))
    answer, other = (plain_ids(ids).tolist() for ids in (longest[1], shortest[1][:CHECK_TOKENS]))
    # no longer than the first answer, so that it has positions; turned, so that the two differ
    second = [*other, *answer[::-1]][: min(len(answer), CHECK_TOKENS)]
    return [(longest[0], answer), (longest[0], second), (shortest[0], other)]


@torch.no_grad()
def _difference(
    model: nn.Module,
    trial: Sequence[Pair],
    form: MaskForm,
    plain: Tensor,
    workspace: Workspace | None = None,
) -> float:
    """Mean |difference| of the packed row's log-probs, nats per token; infinite where the body refuses the form."""
    whole = sys.maxsize
    try:
        packed = packed_token_logps(
            model, trial, max_tokens_per_row=whole, sharing=Sharing(form), workspace=workspace
        )
        if form.kind == "block":
            _try_backward(model, trial, form)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        logger.debug("mask form %s is refused: %s", form, error)
        return float("inf")
    difference = float((torch.cat(packed) - plain).abs().mean())
    return difference if difference == difference else float("inf")


@torch.enable_grad()
def _try_backward(model: nn.Module, trial: Sequence[Pair], form: MaskForm) -> None:
    """One backward pass, whose kernels are others than the forward pass's and have limits of their own."""
    weight = next((weight for weight in model.parameters() if weight.requires_grad), None)
    if weight is not None:
        logps = packed_token_logps(model, trial, max_tokens_per_row=sys.maxsize, sharing=Sharing(form))
        torch.autograd.grad(torch.cat(logps).sum(), weight, allow_unused=True)


def _unshared(kind: str, reason: str) -> Sharing:
    logger.warning("models of type %r run one sequence at a time, without shared prefixes: %s", kind, reason)
    return Sharing(None, reason)
