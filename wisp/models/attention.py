"""Attention over slots, registered with transformers under the name `wisp_slots`.

transformers hands the queries, keys and values of the flattened row to this function in every
layer, and with them, as a keyword argument, the cache and the description of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from wisp.models.batch import SlotBatch

NAME = "wisp_slots"


class SlotCache:
    """Keys and values of all slots, layer by layer: [num_slots * capacity, kv heads, head dim].

    A layer's tensors are made when its first keys are seen, so their shapes need no config.
    They are zeros, which the system maps lazily: pages of the CPU that no token has touched cost
    nothing.
    """

    def __init__(self, num_slots: int, capacity: int, block: int) -> None:
        self.num_slots = num_slots
        self.capacity = capacity  # tokens of a slot
        self.block = block  # keys that are summed at once
        self.batch: SlotBatch | None = None  # of the forward in progress
        self.unsupported: set[str] = set()  # what layers asked for and this attention cannot do
        self.sliding_windows: set[int] = set()
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors of a layer whose new keys are [1, kv heads, T, head dim]."""
        held = self._layers.get(index)
        if held is None:
            held = self._layers[index] = (self._zeros(key), self._zeros(value))
        return held

    def _zeros(self, like: Tensor) -> Tensor:
        rows = self.num_slots * self.capacity
        return like.new_zeros(rows, like.shape[1], like.shape[3])


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    wisp_slots: SlotCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Query [1, heads, T, head dim], key and value [1, kv heads, T, .] -> [1, T, heads, .]."""
    if wisp_slots is None or wisp_slots.batch is None:
        raise RuntimeError("the model does not hand keyword arguments on to its attention")
    cache, batch = wisp_slots, wisp_slots.batch
    index = module.layer_idx
    assert isinstance(index, int)
    keys, values = cache.layer(index, key, value)
    if options:
        _note_unsupported(cache, options)
    keys.index_copy_(0, batch.rows, key[0].transpose(0, 1)[: batch.num_tokens])
    values.index_copy_(0, batch.rows, value[0].transpose(0, 1)[: batch.num_tokens])

    _, num_heads, num_tokens, head_dim = query.shape
    num_kv = keys.shape[1]
    group = num_heads // num_kv
    scale = head_dim**-0.5 if scaling is None else scaling
    # Queries of one key head lie together: [kv heads, T * group, head dim].
    queries = query.view(num_kv, group, num_tokens, head_dim).transpose(1, 2)
    queries = queries.reshape(num_kv, num_tokens * group, head_dim)
    output = query.new_zeros(num_kv, num_tokens * group, values.shape[2])
    keys, values = keys.permute(1, 2, 0), values.transpose(0, 1)
    for slot, first, count, length in batch.spans:
        rows = slice(first * group, (first + count) * group)
        base = slot * cache.capacity
        held = slice(base, base + length)
        bias = batch.bias[rows, :length]
        scores = torch.baddbmm(bias, queries[:, rows], keys[:, :, held], alpha=scale)
        output[:, rows] = _weighted_sum(scores.softmax(-1), values[:, held], cache.block)
    output = output.view(num_kv, num_tokens, group, -1).transpose(0, 1)
    return output.reshape(1, num_tokens, num_heads, -1), None


def _weighted_sum(weights: Tensor, values: Tensor, block: int) -> Tensor:
    """[b, rows, length] x [b, length, head dim], summed block by block from the front."""
    total = torch.bmm(weights[:, :, :block], values[:, :block])
    for start in range(block, weights.shape[2], block):
        end = start + block
        total = torch.baddbmm(total, weights[:, :, start:end], values[:, start:end])
    return total


def _note_unsupported(cache: SlotCache, options: dict[str, Any]) -> None:
    """Remember what this attention would silently leave out; the model is refused for it."""
    if window := options.get("sliding_window"):
        cache.sliding_windows.add(window)
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            cache.unsupported.add(name)


AttentionInterface.register(NAME, attend)
