"""A key-value cache with room: a new token is written into its place, where the plain one copies all that was before it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens


def roomy_cache(config: Any) -> DynamicCache:
    """A `DynamicCache` for `model(config)` whose plain layers have room; other kinds of layers stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values [B, heads, T, width] as views of buffers that are longer than T."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states [B, heads, new, width]; all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = tuple(
                _with_room(old, new, end)
                for old, new in ((self.keys, key_states), (self.values, value_states))
            )  # type: ignore[assignment]
        keys, values = self._buffers  # type: ignore[misc]
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with the rows [K] alone, in new buffers."""
        super().batch_select_indices(indices)
        self._buffers = None  # the next token makes room anew


def _with_room(old: Tensor, new: Tensor, end: int) -> Tensor:
    """A buffer of the shape of `new`, with room beyond `end`, that begins with `old`."""
    buffer = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
    if old.numel():
        buffer[..., : old.shape[-2], :] = old
    return buffer
