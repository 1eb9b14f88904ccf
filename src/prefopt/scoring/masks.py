"""Attention masks of packed rows, in the form that each architecture reads.

Token i sees token j if both are of one group, j is of the prompt or of i's own answer, and j's position is not after
i's; in a layer with a sliding window j is also less than `window` positions back. Positions restart per answer, so
the window is a distance of positions, not of places in the row.

Seen in transformers 5.23: models whose layers differ (Gemma-3, Qwen3, Qwen2, Cohere2) take a mapping from layer type
to mask; given one mask they use it for every layer, which is wrong without an error where windows differ. The others
(Llama, GPT-2, OLMo-2) take one mask and refuse the mapping; Mistral, Phi-3 and Qwen3-MoE take one mask with their
window in it. `sdpa` reads booleans, `eager` floats that are added, `flex_attention` a block mask. The form found here
is a proposal: `shared.check_sharing` compares one row with the plain forward before it is used.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prefopt.scoring import segments
from prefopt.scoring.packing import NO_GROUP, Row

Kind = Literal["bool", "additive", "block"]
Mask = Any  # a Tensor [1, 1, T, T], a BlockMask, or a mapping from layer type to one of these

FULL, SLIDING = "full_attention", "sliding_attention"
KINDS: dict[str, Kind] = {
    "sdpa": "bool",
    segments.NAME: "bool",
    "eager": "additive",
    "flex_attention": "block",
}
# the block size of flex_attention; rows are padded to a multiple
BLOCK_TOKENS = 128


@dataclass(frozen=True)
class MaskForm:
    """What a model's body takes as `attention_mask`.

    per_layer_type: a mapping {full_attention, sliding_attention}, else one mask for all layers. window: positions
    that a sliding layer sees, itself included (None: no layer slides).
    """

    kind: Kind
    per_layer_type: bool
    window: int | None

    @property
    def pad_to(self) -> int:
        """Rows are padded to a multiple of this many tokens."""
        return BLOCK_TOKENS if self.kind == "block" else 1

    def __str__(self) -> str:
        layers = "one mask per layer type" if self.per_layer_type else "one mask"
        return f"{self.kind}, {layers}" + (f", window {self.window}" if self.window else "")


def cannot_share(model: nn.Module) -> str | None:
    """Why a causal LM cannot share prefixes, as far as its class and config tell; None when it may."""
    config: Any = model.config
    text = config.get_text_config()
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {FULL, SLIDING})
    if others:
        return f"it has layers of type {', '.join(others)}"
    if getattr(model, "_is_stateful", False):
        return "it is recurrent"
    attention = getattr(text, "_attn_implementation", None)
    if attention not in KINDS:
        return f"its attention is {attention!r}, which takes no mask per token; load it with sdpa"
    return None


def mask_forms(config: Any) -> list[MaskForm]:
    """Forms to try, the likeliest first, by attention implementation, layer types and window."""
    text = config.get_text_config()
    kind = KINDS[text._attn_implementation]
    window = getattr(text, "sliding_window", None)
    by_type = MaskForm(kind, True, window)
    single = [MaskForm(kind, False, window)] + ([MaskForm(kind, False, None)] if window else [])
    return [by_type, *single] if getattr(text, "layer_types", None) else [*single, by_type]


def visible(row: Row, window: int | None, device: torch.device | str = "cpu") -> Tensor:
    """Which token sees which, bool [T, T] (query, key). Padding sees itself alone, so that no softmax is empty."""
    group, segment, position = _columns(row, device)
    seen = _rule(group, segment, position, window)
    index = torch.arange(len(group), device=device)
    return seen(index[:, None], index[None, :])


def make_mask(form: MaskForm, row: Row, dtype: torch.dtype, device: torch.device | str) -> Mask:
    """The mask of a row in a model's form. dtype: of the model, for masks that are added."""
    if not form.per_layer_type:
        return _one_mask(form.kind, row, form.window, dtype, device)
    masks = {FULL: _one_mask(form.kind, row, None, dtype, device)}
    masks[SLIDING] = (
        masks[FULL] if form.window is None else _one_mask(form.kind, row, form.window, dtype, device)
    )
    return masks


def _one_mask(
    kind: Kind, row: Row, window: int | None, dtype: torch.dtype, device: torch.device | str
) -> Mask:
    if window is not None and int(row.position_ids.max()) < window:
        window = None  # the whole row is within the window
    if kind == "block":
        return _block_mask(row, window, device)
    seen = visible(row, window, device)[None, None]
    if kind == "bool":
        return segments.mark(seen, row) if window is None else seen
    return torch.zeros((), dtype=dtype, device=device).where(seen, torch.finfo(dtype).min)


def _block_mask(row: Row, window: int | None, device: torch.device | str) -> Any:
    """The mask for flex_attention, which skips empty blocks of 128 x 128 tokens."""
    from torch.nn.attention.flex_attention import create_block_mask

    group, segment, position = _columns(row, device)
    seen = _rule(group, segment, position, window)

    size = len(group)
    # a lambda: flex_attention counts the positional arguments of its rule
    rule = lambda batch, head, query, key: seen(query, key)  # noqa: E731
    return create_block_mask(rule, B=None, H=None, Q_LEN=size, KV_LEN=size, device=str(device))


def _columns(row: Row, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Group, segment and position of each token; every padding token is a group of its own."""
    group = torch.from_numpy(row.groups).to(device)
    alone = NO_GROUP - torch.arange(len(group), device=device)
    group = torch.where(group == NO_GROUP, alone, group)
    return group, torch.from_numpy(row.segments).to(device), torch.from_numpy(row.position_ids).to(device)


def _rule(group: Tensor, segment: Tensor, position: Tensor, window: int | None) -> Any:
    """The rule of the module's docstring on index tensors (query, key)."""

    def seen(query: Tensor, key: Tensor) -> Tensor:
        same = group[query] == group[key]
        inside = (segment[key] == 0) | (segment[key] == segment[query])
        back = position[query] - position[key]
        result = same & inside & (back >= 0)
        return result if window is None else result & (back < window)

    return seen
