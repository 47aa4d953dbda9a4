"""Where the tokens of one forward lie: the description that the attention function works from.

All tokens of a forward stand in one row of T tokens, item after item, so that every linear layer
runs once and without padding between items. Only attention looks at items one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# On the CPU a matrix product gives a row the same bits whatever rows stand beside it if the number
# of rows is a multiple of 4: fewer than 4 take other kernels, and threads split rows by 4. A sum
# over keys has the same bits whatever zeros follow if all of its parts are summed alike: where the
# kernels cut a sum, and in what order they add, depends on its length. So rows are rounded up to
# ROWS, and keys are summed in blocks of KEYS, the last one filled with zeros.
ROWS = 4
KEYS = 128


class Item(NamedTuple):
    """One session's part of a forward: tokens for positions `start`, `start` + 1, ... of a slot."""

    slot: int
    start: int
    tokens: Sequence[int]
    num_logits: int  # logits of the last so many tokens are wanted


class Span(NamedTuple):
    """One item in the row: queries `first` and on look at the first keys of a slot.

    `num_queries` is rounded up: queries beyond the item's own belong to its neighbours (or are
    padding), and what is computed for them is overwritten, as spans are worked on in order.
    """

    slot: int
    first: int
    num_queries: int
    num_keys: int  # rounded up too


@dataclass(slots=True)
class SlotBatch:
    """What the attention function must know of a forward."""

    num_tokens: int  # without the padding at the end
    rows: Tensor  # [num_tokens] of int64: slot * capacity + position, where keys and values go
    spans: list[Span]
    bias: Tensor  # [T * group, longest length]: 0 where a query may look, else -inf


class Layout(NamedTuple):
    """A forward's inputs."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    logit_rows: Tensor  # [num_logits rounded up], indices into T
    num_logits: int
    batch: SlotBatch


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def lay_out(
    items: Sequence[Item], *, capacity: int, group: int, dtype: torch.dtype, device: torch.device
) -> Layout:
    """Flatten the items.

    `capacity` is the number of rows of a slot, `group` the number of query heads that share a key.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    multiple = ROWS if group % ROWS else 1  # rows of attention products are queries * group
    end = 0
    for slot, start, tokens, num_logits in items:
        first, stop = len(ids), start + len(tokens)
        ids.extend(tokens)
        positions.extend(range(start, stop))
        rows.extend(range(slot * capacity + start, slot * capacity + stop))
        wanted.extend(range(len(ids) - num_logits, len(ids)))
        spans.append(Span(slot, first, round_up(len(tokens), multiple), round_up(stop, KEYS)))
        end = max(end, first + spans[-1].num_queries)
    num_tokens, num_logits = len(ids), len(wanted)
    padding = round_up(end, ROWS) - num_tokens
    ids.extend([0] * padding)
    positions.extend([0] * padding)
    wanted.extend([0] * (round_up(num_logits, ROWS) - num_logits))
    position_ids = torch.tensor([positions], device=device)
    longest = max(span.num_keys for span in spans)
    batch = SlotBatch(
        num_tokens=num_tokens,
        rows=torch.tensor(rows, dtype=torch.int64, device=device),
        spans=spans,
        bias=causal_bias(position_ids[0], longest, group, dtype),
    )
    return Layout(
        torch.tensor([ids], device=device),
        position_ids,
        torch.tensor(wanted, dtype=torch.int64, device=device),
        num_logits,
        batch,
    )


def causal_bias(positions: Tensor, length: int, group: int, dtype: torch.dtype) -> Tensor:
    """Each of T positions may look at keys 0 .. itself: [T * group, length]."""
    keys = torch.arange(length, device=positions.device)
    hidden = keys > positions.repeat_interleave(group)[:, None]
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(
        hidden, float("-inf")
    )
