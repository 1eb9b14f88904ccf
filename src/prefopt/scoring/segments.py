"""Attention of packed rows: which implementation a model uses for them, and one of our own for the CPU, piece by piece.

`scaled_dot_product_attention` on a CPU computes every block of a masked row, also those that the mask empties; the pieces
compute none of them, so that a row's cost is that of its groups. The function is registered with transformers under
`NAME`, and finds the pieces on the mask that a row was given (`mark`); a mask without them is handled as "sdpa" does.

Shapes: T tokens of a row, A heads, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attention

from prefopt.core.errors import PrefoptError
from prefopt.scoring.packing import NO_GROUP, Row

NAME = "prefopt_segments"


@dataclass(frozen=True)
class Piece:
    """Queries of consecutive tokens. prompt: (start, end) of the prompt that they see too, before themselves; None: a
    prompt and its first answer, which are causal among themselves. seen: bool [queries, prompt + queries]."""

    size: int
    prompt: tuple[int, int] | None
    seen: Tensor | None


def attention_of(model: nn.Module) -> str:
    """The attention implementation of a causal LM."""
    config: Any = model.config
    return str(config.get_text_config()._attn_implementation)


def set_attention(model: nn.Module, name: str) -> None:
    """Let a causal LM attend by another implementation from its next forward pass on."""
    config: Any = model.config
    if name == NAME:
        _register()
    config.get_text_config()._attn_implementation = name


def candidates(model: nn.Module) -> list[str]:
    """Attention implementations for packed rows, the best first; the last is the model's own.

    A model that was loaded with another one than "sdpa", transformers' default, keeps what its user chose.
    """
    own = attention_of(model)
    if own != "sdpa":
        return [own]
    # compiled layers: every row has other pieces, and each would be compiled anew
    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    if next(model.parameters()).device.type != "cpu" or is_compiled:
        return [own]
    return [NAME, own]


def choose_attention(model: nn.Module, name: str) -> None:
    """Let a causal LM attend as its user asks.

    Raises:
        PrefoptError: the model does not support it.
    """
    kind = model.config.model_type  # type: ignore[union-attr]
    supported = {"flex_attention": "_supports_flex_attn", "sdpa": "_supports_sdpa"}
    if name in supported and not getattr(model, supported[name], False):
        raise PrefoptError(
            f"train.attention: models of type {kind!r} do not support {name}; remove the setting"
        )
    set_attention(model, name)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def pieces_of(row: Row) -> tuple[Piece, ...] | None:
    """The pieces of a row in the order of its tokens; None for a row with padding."""
    if bool((row.groups == NO_GROUP).any()):
        return None
    edges = np.flatnonzero((np.diff(row.groups) != 0) | (np.diff(row.segments) != 0)) + 1
    starts = [0, *edges.tolist()]
    ends = [*starts[1:], len(row.groups)]
    found: list[Piece] = []
    prompt = (0, 0)
    is_first = False
    for start, end in zip(starts, ends, strict=True):
        if row.segments[start] == 0:
            prompt, is_first = (start, end), True
            found.append(Piece(end - start, None, None))
        elif is_first:  # with its prompt it is one causal sequence
            found[-1] = Piece(end - prompt[0], None, None)
            is_first = False
        else:
            size, before = end - start, prompt[1] - prompt[0]
            seen = torch.ones(size, before + size, dtype=torch.bool).tril(before)
            found.append(Piece(size, prompt, seen))
    return tuple(found)


def mark(mask: Tensor, row: Row) -> Tensor:
    """The mask with the row's pieces on it."""
    mask.pieces = pieces_of(row)  # type: ignore[attr-defined]
    return mask


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface wants it: query [1, A, T, D] and fewer heads of key and value -> [1, T, A, D].

    others: passed on where the mask has no pieces.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    pieces: tuple[Piece, ...] | None = getattr(attention_mask, "pieces", None)
    special = any(others.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if pieces is None or dropout or special or key.shape[2] != query.shape[2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    repeats = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    sizes = [piece.size for piece in pieces]
    results = []
    for piece, q, k, v in zip(pieces, *(each.split(sizes, 2) for each in (query, key, value)), strict=True):
        if piece.prompt is None:
            results.append(attention(q, k, v, is_causal=True, scale=scaling))
            continue
        start, end = piece.prompt
        k, v = torch.cat([key[:, :, start:end], k], 2), torch.cat([value[:, :, start:end], v], 2)
        results.append(attention(q, k, v, attn_mask=piece.seen, scale=scaling))
    return torch.cat(results, 2).transpose(1, 2).contiguous(), None
