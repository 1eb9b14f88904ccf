"""Which token comes next: temperature, top_k, top_p, and one random number per row.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefopt.core.errors import PrefoptError
from prefopt.engines import Sampling

# top_p is sought among so many likeliest tokens first; rows that need more go on to the next size
LIKELY = (256, 4096)


def choose(logits: Tensor, sampling: Sampling, noise: Tensor) -> Tensor:
    """The next token [B] from logits [B, V], by inversion of the distribution at `noise` [B] in [0, 1).

    Temperature, then top_k, then top_p: the smallest set of likeliest tokens that holds at least `top_p`.

    Raises:
        PrefoptError: a row holds NaN.
    """
    peak = logits.amax(dim=-1, keepdim=True)
    if bool(torch.isnan(peak).any()):
        raise PrefoptError("the model gives NaN logits; its weights are damaged, or try dtype float32")
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    is_cut = 0 < sampling.top_k < vocabulary
    if not is_cut and sampling.top_p >= 1:
        return _invert(torch.softmax(_scaled(logits, peak, sampling), dim=-1), noise)
    if is_cut:
        return _among_likely(logits, peak, sampling, noise, sampling.top_k)[0]
    # almost always a few hundred tokens hold top_p; sorting the whole vocabulary takes longer than the model does
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    left = torch.arange(len(logits), device=logits.device)
    totals = _total(logits, peak, sampling)
    for size in (*(size for size in LIKELY if size < vocabulary), vocabulary):
        drawn, enough = _among_likely(logits[left], peak[left], sampling, noise[left], size, totals[left])
        tokens[left[enough]] = drawn[enough]
        left = left[~enough]
        if not len(left):
            break
    return tokens


def _scaled(logits: Tensor, peak: Tensor, sampling: Sampling) -> Tensor:
    """Logits over temperature in float64; taking the maximum off first keeps a tiny temperature finite."""
    return (logits.double() - peak) / sampling.temperature


def _total(logits: Tensor, peak: Tensor, sampling: Sampling) -> Tensor:
    """Sum of exp(scaled logit) over the vocabulary, [B, 1], float64 of float32 terms.

    It decides alone which token is the last of those that hold top_p, so that an error of 1e-7 is as good as none.
    """
    terms = logits.float() - peak.float()
    return terms.div_(max(sampling.temperature, 1e-30)).exp_().sum(dim=-1, keepdim=True, dtype=torch.float64)


def _among_likely(
    logits: Tensor, peak: Tensor, sampling: Sampling, noise: Tensor, size: int, totals: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next token [B] among the `size` likeliest, and whether they hold top_p [B].

    totals [B, 1]: sum of exp(scaled logit) over the vocabulary; None: over these tokens alone (top_k).
    """
    likely, order = torch.topk(logits, size, dim=-1, sorted=True)
    weights = _scaled(likely, peak, sampling).exp()
    shares = weights / (weights.sum(dim=-1, keepdim=True) if totals is None else totals)
    after = shares.cumsum(dim=-1)
    picked = _invert(shares.masked_fill(after - shares >= sampling.top_p, 0.0), noise)
    # of all tokens the sum is 1 up to rounding, whatever top_p says
    enough = (after[:, -1] >= sampling.top_p) | (size == logits.shape[-1])
    return order.gather(-1, picked[:, None]).squeeze(-1), enough


def _invert(shares: Tensor, noise: Tensor) -> Tensor:
    """Index [B] where the running sum of shares [B, V] first exceeds noise times their total; never one of share 0."""
    sums = shares.cumsum(dim=-1)
    # the total is missed by rounding only if noise is within 2**-50 of 1
    target = noise.clamp(max=1 - 2**-40)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, target, right=True).squeeze(-1)
