"""The drafter that runs a small Hugging Face model over a slot cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.propose import propose
from wisp.errors import Overloaded
from wisp.models.slots import Item, SlotModel

# The most tokens of one sequence in one forward. It bounds the memory that a long prompt takes, and
# the time for which the drafts of others wait behind it. Chosen: no measurement stands behind the
# number itself.
CHUNK = 512


@dataclass(slots=True)
class _Slot:
    index: int
    held: list[int] = field(default_factory=list)  # tokens whose keys and values it has


class TransformersDrafter:
    """Implements `wisp.edge.drafter.base.Drafter`."""

    def __init__(
        self,
        directory: str | Path,
        *,
        max_sessions: int,
        max_model_len: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._model = SlotModel(directory, max_sessions, max_model_len, device, dtype, num_threads)
        self.vocab_size = self._model.vocab_size
        self.max_model_len = self._model.max_len
        self._free = list(range(max_sessions))[::-1]
        self._slots: dict[int, _Slot] = {}

    def open(self, key: int) -> None:
        if key in self._slots:
            raise ValueError(f"sequence {key} is open already")
        if not self._free:
            raise Overloaded(f"all {self._model.num_slots} sequences of the drafter are taken")
        self._slots[key] = _Slot(self._free.pop())

    def close(self, key: int) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._free.append(slot.index)

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        if not jobs:
            return []
        pending = [(self._slots[job.key], job.tokens) for job in jobs]
        for slot, tokens in pending:
            # Its last token is computed anew if nothing else is: its logits are what is wanted.
            del slot.held[common_prefix(slot.held, tokens, len(tokens) - 1) :]
        while True:
            items = [_next_item(slot, tokens) for slot, tokens in pending]
            longer = [item for item in items if item.num_logits == 0]
            if not longer:
                break
            self._model.forward(longer)
            _remember(pending, longer)
        logits = self._model.forward(items)
        _remember(pending, items)
        return propose(logits.float().cpu().numpy(), jobs)


def _next_item(slot: _Slot, tokens: Sequence[int]) -> Item:
    start = len(slot.held)
    rest = tokens[start : start + CHUNK]
    return Item(slot.index, start, rest, int(start + len(rest) == len(tokens)))


def _remember(pending: Sequence[tuple[_Slot, Sequence[int]]], items: Sequence[Item]) -> None:
    computed = {item.slot: item.tokens for item in items}
    for slot, _ in pending:
        slot.held.extend(computed.get(slot.index, ()))


def common_prefix(held: Sequence[int], tokens: Sequence[int], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`.

    Nearly always the new sequence continues the old one, or leaves it near its end: comparing whole
    slices first, and halving where they differ, costs no Python work for each token.
    """
    low, high = 0, max(0, min(len(held), len(tokens), limit))
    if list(held[:high]) == list(tokens[:high]):
        return high
    while high - low > 1:  # equal up to low, different before high
        middle = (low + high) // 2
        if list(held[low:middle]) == list(tokens[low:middle]):
            low = middle
        else:
            high = middle
    return low
