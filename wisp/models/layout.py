"""Where the tokens of one forward lie: the description that the attention function works from.

All tokens of a forward stand in one row of T tokens, item after item, so that linear layers run
without padding between items. Attention looks at each item in tiles of a fixed number of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# What bits a matrix product gives a row depends, on most processors, on the shape of the product:
# how many rows it has and how long its sums are choose the kernels, and so the order of additions.
# So no shape here depends on what is computed: a linear layer works on ROWS tokens at a time, and
# attention on QUERIES tokens of one item and KEYS keys, the last of each filled up. They are
# constants and not tuned at start, since a text must not depend on how busy the machine was then.
#
# Measured on an Intel Xeon with AVX-512 (docs/measurements/batching.md): with 16 ROWS a single
# session is a tenth slower, and prompts a tenth faster, than with 8; 4 QUERIES make prompts slower,
# 16 make sessions that decode slower; and 256 KEYS are too many for short contexts. 8 rows of
# float32 are also whole cache lines, so every tile of a row begins at the same alignment.
ROWS = 8
QUERIES = 8  # the tokens of one item in a tile of attention; measured with ROWS, see above
# The keys of a block of attention; measured with ROWS, see above.
KEYS = 128
# The pairs of a tile and a block of keys that are weighed at once. Chosen: their scores should fit
# a core's cache.
PAIRS = 32


class Item(NamedTuple):
    """One session's part of a forward: tokens for positions `start`, `start` + 1, ... of a slot."""

    slot: int
    start: int
    tokens: Sequence[int]
    num_logits: int  # logits of the last so many tokens are wanted


class Shape(NamedTuple):
    """What the layout must know of the model and its cache."""

    capacity: int  # tokens of a slot: a multiple of `keys`
    group: int  # query heads that share a key head
    queries: int  # tokens of a query tile
    keys: int  # of a block


class Tile(NamedTuple):
    """At most `Shape.queries` tokens of one item that follow each other."""

    first: int  # index into T
    start: int  # position of the first
    num_tokens: int
    first_block: int  # of its slot
    num_blocks: int  # that it looks at


@dataclass(slots=True)
class Group:
    """Some tiles that look at equally many key blocks."""

    num_tiles: int
    num_blocks: int
    # One of each for each pair of a tile and a block, tile after tile, blocks by position:
    tiles: list[int]
    blocks: list[int]  # indices into the cache
    bias: Sequence[Tensor]  # [queries * group, keys]: added to scores, see `causal_bias`


@dataclass(slots=True)
class SlotBatch:
    """What the attention function must know of a forward."""

    num_tokens: int  # without the padding at the end
    rows: Tensor  # [num_tokens] of int64: slot * capacity + position, where keys and values go
    queries: Tensor  # [num tiles * queries], indices into T: the tokens of each tile
    places: Tensor  # [T], indices into `queries`: where the output of each token is found
    groups: list[Group]


class Layout(NamedTuple):
    """A forward's inputs."""

    input_ids: Tensor  # [1, T], T a multiple of ROWS
    position_ids: Tensor  # [1, T]
    logit_rows: Tensor  # [num_logits rounded up], indices into T
    num_logits: int
    batch: SlotBatch


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def lay_out(
    items: Sequence[Item],
    shape: Shape,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rows_of_tile: int = ROWS,
) -> Layout:
    """Flatten the items, and cut them into tiles; T is a multiple of `rows_of_tile`."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    wanted: list[int] = []
    tiles: list[Tile] = []
    for item in items:
        first, stop = len(ids), item.start + len(item.tokens)
        ids.extend(item.tokens)
        positions.extend(range(item.start, stop))
        base = item.slot * shape.capacity
        rows.extend(range(base + item.start, base + stop))
        wanted.extend(range(len(ids) - item.num_logits, len(ids)))
        tiles.extend(_tiles(item, first, shape))
    num_tokens, num_logits = len(ids), len(wanted)
    padding = round_up(num_tokens, rows_of_tile) - num_tokens
    ids.extend([0] * padding)
    positions.extend([0] * padding)
    wanted.extend([0] * (round_up(num_logits, rows_of_tile) - num_logits))
    tiles.sort(key=lambda tile: tile.num_blocks)
    queries, places = _queries(tiles, len(ids), shape.queries)
    batch = SlotBatch(
        num_tokens=num_tokens,
        rows=torch.tensor(rows, device=device),
        queries=torch.tensor(queries, device=device),
        places=torch.tensor(places, device=device),
        groups=_groups(tiles, shape, dtype, device),
    )
    return Layout(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        torch.tensor(wanted, dtype=torch.int64, device=device),
        num_logits,
        batch,
    )


def _tiles(item: Item, first: int, shape: Shape) -> list[Tile]:
    """The tiles of an item whose first token is the `first` of the row."""
    first_block = item.slot * (shape.capacity // shape.keys)
    found = []
    for offset in range(0, len(item.tokens), shape.queries):
        count = min(shape.queries, len(item.tokens) - offset)
        start = item.start + offset
        num_blocks = (start + count - 1) // shape.keys + 1
        found.append(Tile(first + offset, start, count, first_block, num_blocks))
    return found


def _queries(tiles: Sequence[Tile], num_rows: int, size: int) -> tuple[list[int], list[int]]:
    """The tokens of the tiles, and the places of all tokens in them (of the padding: any)."""
    queries: list[int] = []
    places = [0] * num_rows
    for tile in tiles:
        end = tile.first + tile.num_tokens
        places[tile.first : end] = range(len(queries), len(queries) + tile.num_tokens)
        queries.extend(range(tile.first, end))
        queries.extend([tile.first] * (size - tile.num_tokens))
    return queries, places


def _groups(
    tiles: Sequence[Tile], shape: Shape, dtype: torch.dtype, device: torch.device
) -> list[Group]:
    """Tiles come in the order of their numbers of blocks."""
    groups = []
    first = 0
    while first < len(tiles):
        num_blocks = tiles[first].num_blocks
        stop = first + 1
        while (
            stop < len(tiles)
            and tiles[stop].num_blocks == num_blocks
            and (stop + 1 - first) * num_blocks <= PAIRS
        ):
            stop += 1
        members = tiles[first:stop]
        starts = torch.tensor([tile.start for tile in members], device=device)
        groups.append(
            Group(
                len(members),
                num_blocks,
                [index for index in range(first, stop) for _ in range(num_blocks)],
                [tile.first_block + block for tile in members for block in range(num_blocks)],
                causal_bias(starts, num_blocks, shape, dtype).unbind(),
            )
        )
        first = stop
    return groups


def causal_bias(starts: Tensor, num_blocks: int, shape: Shape, dtype: torch.dtype) -> Tensor:
    """Each position may look at itself and those before: [tiles * blocks, queries * group, keys].

    0 where it may, else so low that no weight is left, but finite: a block with no key to look at
    has a softmax, too. `starts` [tiles] are the positions of the tiles' first tokens. A tile that
    is not full is filled with positions behind it: what they look at does not matter.
    """
    positions = starts[:, None] + torch.arange(shape.queries, device=starts.device)
    positions = positions.repeat_interleave(shape.group, 1)[:, None, :, None]
    keys = torch.arange(num_blocks * shape.keys, device=starts.device)
    hidden = keys.view(1, num_blocks, 1, shape.keys) > positions
    bias = torch.zeros(hidden.shape, dtype=dtype, device=starts.device)
    return bias.masked_fill_(hidden, torch.finfo(dtype).min / 2).flatten(0, 1)
