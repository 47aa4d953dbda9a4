"""Attention over slots, registered with transformers under the name `wisp_slots`.

transformers hands the queries, keys and values of the flattened row to this function in every
layer, and with them, as a keyword argument, the cache and the description of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from wisp.models.layout import Group, Shape, SlotBatch

NAME = "wisp_slots"


class Layer:
    """Keys and values of all slots in one layer, as rows and as blocks of rows.

    They are zeros, which the system maps lazily: pages of the CPU that no token has touched cost
    nothing.
    """

    def __init__(self, key: Tensor, value: Tensor, num_rows: int, block: int) -> None:
        """`key` and `value` are new ones, [1, kv heads, T, head dim]."""
        self.keys = key.new_zeros(num_rows, key.shape[1], key.shape[3])
        self.values = value.new_zeros(num_rows, value.shape[1], value.shape[3])
        # [blocks, kv heads, head dim, block] and [blocks, kv heads, block, head dim]
        self.key_blocks = self.keys.view(-1, block, *self.keys.shape[1:]).permute(0, 2, 3, 1)
        self.value_blocks = self.values.view(-1, block, *self.values.shape[1:]).transpose(1, 2)


class SlotCache:
    """The layers' keys and values, and what their attention is told of the forward in progress.

    A layer is made when its first keys are seen, so its shape needs no config.
    """

    def __init__(self, num_slots: int, shape: Shape) -> None:
        self.shape = shape
        self.batch: SlotBatch | None = None  # of the forward in progress
        self.unsupported: set[str] = set()  # what layers asked for and this attention cannot do
        self.sliding_windows: set[int] = set()
        self._num_rows = num_slots * shape.capacity
        self._layers: dict[int, Layer] = {}

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def row_bytes(self) -> int:
        """Of one position, in all layers."""
        rows = [held[0] for each in self._layers.values() for held in (each.keys, each.values)]
        return sum(row.nbytes for row in rows)

    @torch.inference_mode()
    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Of all layers, the rows of the positions [start, end) of one slot, into another's."""
        old, new = source * self.shape.capacity, target * self.shape.capacity
        for layer in self._layers.values():
            for rows in (layer.keys, layer.values):
                rows[new + start : new + end] = rows[old + start : old + end]

    @torch.inference_mode()
    def save(self, slot: int, end: int) -> list[Tensor]:
        """Copies of a slot's first `end` rows, in host memory: keys, then values, of each layer."""
        start = slot * self.shape.capacity
        rows = slice(start, start + end)
        return [
            held[rows].to("cpu", copy=True)
            for layer in self._layers.values()
            for held in (layer.keys, layer.values)
        ]

    @torch.inference_mode()
    def restore(self, slot: int, saved: Sequence[Tensor]) -> None:
        """What `save` returned, into a slot."""
        start = slot * self.shape.capacity
        layers = [held for each in self._layers.values() for held in (each.keys, each.values)]
        for held, rows in zip(layers, saved, strict=True):
            held[start : start + len(rows)] = rows.to(held.device)

    def layer(self, index: int, key: Tensor, value: Tensor) -> Layer:
        """The layer whose new keys and values are [1, kv heads, T, head dim]."""
        held = self._layers.get(index)
        if held is None:
            held = self._layers[index] = Layer(key, value, self._num_rows, self.shape.keys)
        return held


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
    layer = cache.layer(index, key, value)
    if options:
        _note_unsupported(cache, options)
    layer.keys.index_copy_(0, batch.rows, key[0].transpose(0, 1)[: batch.num_tokens])
    layer.values.index_copy_(0, batch.rows, value[0].transpose(0, 1)[: batch.num_tokens])

    num_heads, num_kv, size = query.shape[1], key.shape[1], cache.shape.queries
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    # Queries of one key head lie together: [tiles, kv heads, queries * group, head dim].
    queries = query[0].transpose(0, 1).index_select(0, batch.queries)
    queries = queries.view(-1, size, num_kv, num_heads // num_kv, query.shape[3]).transpose(1, 2)
    queries = queries.reshape(queries.shape[0], num_kv, -1, query.shape[3])
    tiles = queries.unbind()
    outputs = [_attend(group, tiles, layer, scale) for group in batch.groups]
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    output = output.view(-1, num_kv, size, num_heads // num_kv, value.shape[3]).transpose(1, 2)
    output = output.reshape(-1, num_heads, value.shape[3]).index_select(0, batch.places)
    return output.unsqueeze(0), None


def _attend(group: Group, queries: Sequence[Tensor], layer: Layer, scale: float) -> Tensor:
    """The output of a group's tiles: [its tiles, kv heads, queries * group, head dim].

    `queries` are those of all tiles, each [kv heads, queries * group, head dim].

    A product is of one tile and one block, for all key heads: even the number of products that are
    asked for at once is the same always, since a library may choose its kernels by that, too.
    Blocks are added in order, so those that a query may not look at, which have zeros for weights,
    change no bit of its sums.
    """
    num_blocks, shape = group.num_blocks, queries[0].shape
    scores = layer.keys.new_empty(len(group.blocks), *shape[:2], layer.key_blocks.shape[3])
    for tile, block, bias, result in zip(
        group.tiles, group.blocks, group.bias, scores.unbind(), strict=True
    ):
        keys = layer.key_blocks.select(0, block)
        torch.baddbmm(bias, queries[tile], keys, alpha=scale, out=result)
    weights = scores.softmax(-1)
    if num_blocks > 1:
        weights *= _shares(scores, weights, num_blocks)
    output = layer.values.new_empty(group.num_tiles, *shape[:2], layer.values.shape[2])
    by_tile = output.unbind()
    for index, (weight, block) in enumerate(zip(weights.unbind(), group.blocks, strict=True)):
        values, result = layer.value_blocks.select(0, block), by_tile[index // num_blocks]
        if index % num_blocks == 0:
            torch.bmm(weight, values, out=result)
        else:
            result.baddbmm_(weight, values)
    return output


def _shares(scores: Tensor, weights: Tensor, num_blocks: int) -> Tensor:
    """Each block's part of a query's weight: [pairs, kv heads, queries * group, 1].

    `weights` are the scores' softmax over each block alone. A query that may look at one block only
    has 1 for it and 0 for the others, exactly: its bits are those of a tile with one block.
    """
    by_tile = (-1, num_blocks, *scores.shape[1:3])
    largest = scores.amax(-1).view(by_tile)
    # Within a block the largest weight is exp(0) over the sum of all: this is that sum.
    sums = weights.amax(-1).view(by_tile).reciprocal_()
    sums *= largest.sub_(largest.amax(1, keepdim=True)).exp_()
    # A running sum adds from the front: zeros behind it do not change it.
    return sums.div_(sums.cumsum(1)[:, -1:]).view(scores.shape[:3]).unsqueeze(-1)


def _note_unsupported(cache: SlotCache, options: dict[str, Any]) -> None:
    """Remember what this attention would silently leave out; the model is refused for it."""
    if window := options.get("sliding_window"):
        cache.sliding_windows.add(window)
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            cache.unsupported.add(name)


AttentionInterface.register(NAME, attend)
