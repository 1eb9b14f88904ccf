"""Log-probabilities of answers: only answer positions reach the LM head, and their logits never exist whole.

Shapes: B sequences of a batch, T tokens of the padded batch, H hidden width, V vocabulary, N answer tokens of the
whole batch. All log-probs in nats, summed in fp32.

The body of the model gives hidden states; head, scaling and log-softmax run over chunks of `chunk_tokens` answer
positions, computed anew in the backward pass, so that memory holds [chunk_tokens, V] logits at a time. What a model
does to its logits behind the head (`head_scale`) is read from its config, and `check_model` compares the outcome with
the model's own logits; a model that differs runs by its own forward pass (`body`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefopt.core.errors import PrefoptError
from prefopt.models.marks import counting, plain_ids
from prefopt.scoring.body import Tap, body_states, head_of, plain_logits, run_plainly, unwrap, why_plain
from prefopt.scoring.router import RouterTap

Ids = Sequence[int] | np.ndarray
# prompt ids and answer ids; both hold at least one token. Answer tokens that do not count are marked (models.marks)
Pair = tuple[Ids, Ids]

# [chunk_tokens, V] logits in fp32 take 64 MiB at this size (a few times that while the gradient is formed), and 512 MiB on
# CUDA: with 150k tokens of vocabulary 110 rows at a time would be bound by reading the weight, 880 are not
CHUNK_ELEMENTS, CUDA_CHUNK_ELEMENTS = 2**24, 2**27
MIN_CHUNK_TOKENS = 64
# mean |difference| per token, nats, between the chunked head and the model's own logits
TOLERANCE_NATS = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_TOLERANCE_NATS = 0.05
CHECK_TOKENS = 256
# what a model raises that is run in a way it does not know
REFUSALS = (TypeError, ValueError, AttributeError, KeyError, IndexError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences. input_ids, attention_mask, position_ids: [B, T]; the rest [N], sequence by sequence.

    rows, columns: which hidden state predicts each answer token that counts. targets: those tokens. lengths: how many
    of them per sequence.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


def make_batch(sequences: Sequence[Pair], pad_id: int = 0) -> Batch:
    """Right-padded batch of (prompt ids, answer ids). Padding is masked, so any `pad_id` gives the same result.

    Raises:
        ValueError: no sequence, or an empty prompt or answer.
    """
    if not sequences or any(len(prompt) == 0 or len(answer) == 0 for prompt, answer in sequences):
        raise ValueError("a batch needs sequences with at least one prompt token and one answer token")
    prompts = [len(prompt) for prompt, _ in sequences]
    sizes = [len(answer) for _, answer in sequences]
    counts = [counting(answer) for _, answer in sequences]
    answers = [plain_ids(answer) for _, answer in sequences]
    width = max(p + a for p, a in zip(prompts, sizes, strict=True))
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, ((prompt, _), answer) in enumerate(zip(sequences, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = np.concatenate([np.asarray(prompt), answer])
        mask[row, : len(prompt) + len(answer)] = 1
    columns = [np.arange(p - 1, p - 1 + len(c))[c] for p, c in zip(prompts, counts, strict=True)]
    lengths = [len(each) for each in columns]
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        # counted from the mask's start; padding repeats the last position, so it stays within the model's range
        position_ids=torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0)),
        rows=torch.from_numpy(np.repeat(np.arange(len(sequences)), lengths)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(np.concatenate([a[c] for a, c in zip(answers, counts, strict=True)])),
        lengths=tuple(lengths),
    )


def completion_logps(
    model: nn.Module, sequences: Sequence[Pair], *, chunk_tokens: int | None = None
) -> Tensor:
    """Summed log-probs [B] of the answers given their prompts, nats, fp32, differentiable.

    sequences: (prompt ids, answer ids), in one padded batch. chunk_tokens: answer positions whose logits exist at a
    time (default: about 64 MiB of fp32 logits).
    """
    return torch.stack([logps.sum() for logps in token_logps(model, sequences, chunk_tokens=chunk_tokens)])


def token_logps(
    model: nn.Module,
    sequences: Sequence[Pair],
    *,
    chunk_tokens: int | None = None,
    squares: bool = False,
    router: RouterTap | None = None,
) -> list[Tensor]:
    """Per-token log-probs of each answer, a list of B tensors [answer tokens], nats, fp32, differentiable.

    squares: tensors [answer tokens, 2] instead, as `head_logps` gives them. router: takes a mixture of experts' routing.
    """
    device = next(model.parameters()).device
    batch = make_batch(sequences)
    tap = None
    if router is not None:
        width = batch.input_ids.shape[1]
        tap = (router, router.weights_of_batch(batch.columns.numpy(), batch.lengths, width))
    logps = batch_logps(model, batch.to(device), chunk_tokens=chunk_tokens, squares=squares, tap=tap)
    return list(logps.split(batch.lengths))


def batch_logps(
    model: nn.Module,
    batch: Batch,
    *,
    chunk_tokens: int | None = None,
    squares: bool = False,
    tap: Tap | None = None,
) -> Tensor:
    """Log-probs [N] of all answer tokens of a batch, sequence by sequence, nats, fp32, differentiable.

    tap: takes a mixture of experts' routing, with what each token [B * T] counts.
    """
    if why_plain(model):
        return _picked(_plain_logits(model, batch, tap), batch.targets, squares)
    hidden_BTH = body_states(model, batch.input_ids, batch.attention_mask, batch.position_ids, tap)
    hidden_NH = hidden_BTH[batch.rows, batch.columns]
    return head_logps(model, hidden_NH, batch.targets, chunk_tokens=chunk_tokens, squares=squares)


def answer_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [N, V] that predict the answer tokens of a batch, fp32."""
    if why_plain(model):
        return _plain_logits(model, batch)
    head, scale = _head(model)
    hidden_BTH = body_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)
    return scale(head(hidden_BTH[batch.rows, batch.columns]).float())


def _plain_logits(model: nn.Module, batch: Batch, tap: Tap | None = None) -> Tensor:
    by_row = plain_logits(model, batch.input_ids, batch.attention_mask, tap)
    columns = batch.columns.split(batch.lengths)
    return torch.cat([logits[mine].float() for logits, mine in zip(by_row, columns, strict=True)])


def head_logps(
    model: nn.Module,
    hidden_NH: Tensor,
    targets_N: Tensor,
    *,
    chunk_tokens: int | None = None,
    squares: bool = False,
) -> Tensor:
    """Log-probs [N] of `targets_N` from hidden states [N, H] of the model's body, chunk by chunk, fp32.

    squares: [N, 2] instead; the second column is log sum_v p_v^2 over the vocabulary, without gradient (WPO).
    """
    causal = unwrap(model)
    head, scale = _head(model)
    if chunk_tokens is None:
        vocabulary = int(causal.config.get_text_config().vocab_size)
        chunk_tokens = default_chunk_tokens(vocabulary, hidden_NH.device)
    chunks = list(zip(hidden_NH.split(chunk_tokens), targets_N.split(chunk_tokens), strict=True))
    # One chunk's logits fit into the budget anyway: no need to compute them twice.
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([_chunk_logps(h, t, head, scale, squares) for h, t in chunks])
    parts = [
        checkpoint(_chunk_logps, h, t, head, scale, squares, use_reentrant=False, preserve_rng_state=False)
        for h, t in chunks
    ]
    return torch.cat(parts)


def default_chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """Answer positions whose logits exist at a time, where nothing else is asked for."""
    elements = CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CHUNK_ELEMENTS
    return max(MIN_CHUNK_TOKENS, elements // vocabulary)


@torch.no_grad()
def score(
    model: nn.Module,
    sequences: Sequence[Pair],
    batch_tokens: int,
    *,
    chunk_tokens: int | None = None,
) -> list[float]:
    """Summed log-probs of the answers, nats, without gradient, in the order given.

    Sequences of like length (ties by position) share a batch of at most `batch_tokens` tokens, padding included; a
    longer sequence stands alone. The model is in eval mode meanwhile.
    """
    whole = [len(answer) for _, answer in sequences]
    return [
        sums[0] for sums in score_cuts(model, sequences, [(n,) for n in whole], batch_tokens, chunk_tokens)
    ]


@torch.no_grad()
def score_cuts(
    model: nn.Module,
    sequences: Sequence[Pair],
    cuts: Sequence[Sequence[int]],
    batch_tokens: int,
    chunk_tokens: int | None = None,
) -> list[list[float]]:
    """`score`, for each sequence over its first `cuts` answer tokens: one sum per cut, nats."""
    was_training = model.training
    model.eval()
    try:
        sums: list[list[float]] = [[]] * len(sequences)
        for batch in _batches_by_length(sequences, batch_tokens):
            logps = token_logps(model, [sequences[i] for i in batch], chunk_tokens=chunk_tokens)
            found = [each[:cut].sum() for i, each in zip(batch, logps, strict=True) for cut in cuts[i]]
            values = iter(torch.stack(found).tolist())  # one transfer from the device per batch
            for index in batch:
                sums[index] = [next(values) for _ in cuts[index]]
        return sums
    finally:
        model.train(was_training)


def head_scale(config: Any) -> Callable[[Tensor], Tensor]:
    """What a model does to the logits behind its head, by its config: a factor, a soft cap, or nothing.

    Cohere and HyperCLOVA X and Falcon-H1 multiply, Granite and MiniCPM3 divide, Gemma, RecurrentGemma and xLSTM cap: cap tanh(logits / cap).
    """
    text = config.get_text_config()
    factor = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):
        factor *= getattr(text, name, None) or 1.0
    scaling = getattr(text, "logits_scaling", None) or 1.0
    factor = factor * scaling if text.model_type.startswith("hyperclovax") else factor / scaling
    caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    cap = next((found for name in caps if (found := getattr(text, name, None)) is not None), None)

    def apply(logits: Tensor) -> Tensor:
        logits = logits if factor == 1.0 else logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return apply


@torch.no_grad()
def check_model(model: nn.Module, sequence: Pair) -> float:
    """Compare one sequence's log-probs with the model's own full logits; returns mean |difference|, nats per token.

    It is run alone and, a part of it, as a padded row. Where that differs the model does something that is not known here,
    and runs by its own forward pass from then on (`body.run_plainly`).

    Raises:
        PrefoptError: the model's own logits are not finite, or two passes of it differ.
    """
    prompt, answer = plain_ids(sequence[0]).tolist(), plain_ids(sequence[1]).tolist()[:CHECK_TOKENS]
    pairs, half = [(prompt, answer)], (prompt + answer)[: (len(prompt) + len(answer)) // 2]
    if len(half) > 1:
        pairs.append((half[:-1], half[-1:]))
    dtype = next(model.parameters()).dtype
    limit = TOLERANCE_NATS.get(dtype, HALF_TOLERANCE_NATS)
    was_training = model.training
    model.eval()
    try:
        own = torch.cat([_own_logps(model, *pair) for pair in pairs])
        if not bool(own.isfinite().all()):
            raise PrefoptError(
                f"the model's logits are not finite in {str(dtype).removeprefix('torch.')}; its weights hold NaN, or need "
                "dtype=float32"
            )
        difference, reason = _difference(model, pairs, own)
        if difference > limit and not why_plain(model):
            run_plainly(model, reason)
            difference, reason = _difference(model, pairs, own)
    finally:
        model.train(was_training)
    if not difference <= limit:
        raise PrefoptError(
            f"models of type {unwrap(model).config.model_type!r} are not supported: two forward passes differ by "
            f"{difference:.2g} nats per token; choose another model"
        )
    return difference


def _own_logps(model: nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    ids = torch.tensor([prompt + answer], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def _difference(model: nn.Module, pairs: Sequence[Pair], own: Tensor) -> tuple[float, str]:
    """Mean |difference| from the model's own log-probs, of the worst sequence, nats per token, and what is to be said of it."""
    try:
        found = token_logps(model, pairs)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        return float("inf"), f"its body is not run as others are ({type(error).__name__})"
    off = (torch.cat(found) - own).abs().split([len(each) for each in found])
    worst = max(float(each.mean()) for each in off)
    if worst != worst:
        return float("inf"), "log-probs by its body and head are not finite"
    return worst, f"log-probs by its body and head differ from its own logits by {worst:.2g} nats per token"


def _head(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    head = head_of(model)
    assert head is not None  # `why_plain` says so before
    return head, head_scale(unwrap(model).config)


def _chunk_logps(
    hidden_NH: Tensor,
    targets_N: Tensor,
    head: nn.Module,
    scale: Callable[[Tensor], Tensor],
    squares: bool = False,
) -> Tensor:
    return _picked(scale(head(hidden_NH).float()), targets_N, squares)


def _picked(logits_NV: Tensor, targets_N: Tensor, squares: bool) -> Tensor:
    """Log-probs of the targets from fp32 logits, as `head_logps` gives them."""
    norm_N = logits_NV.logsumexp(-1)
    logps_N = logits_NV.gather(1, targets_N[:, None])[:, 0] - norm_N
    if not squares:
        return logps_N
    with torch.no_grad():
        squares_N = (2 * logits_NV).logsumexp(-1) - 2 * norm_N
    return torch.stack([logps_N, squares_N], dim=1)


def _batches_by_length(sequences: Sequence[Pair], batch_tokens: int) -> list[list[int]]:
    """Indices cut into batches: longest first, so that a lack of memory shows at once."""
    sizes = [len(prompt) + len(answer) for prompt, answer in sequences]
    order = sorted(range(len(sequences)), key=lambda i: (-sizes[i], i))
    batches: list[list[int]] = []
    for index in order:
        # the batch's first sequence is its longest: it sets the padded width
        if batches and sizes[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
