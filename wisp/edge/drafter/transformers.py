"""The drafter that runs a small Hugging Face model over a slot cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.propose import propose
from wisp.edge.drafter.sequences import Cached, Sequences
from wisp.models.draft_vocabulary import read_vocabulary
from wisp.models.slots import Item, SlotModel

# The most tokens of one sequence in one forward. It bounds the memory that a long prompt takes, and
# the time for which the drafts of others wait behind it. Chosen: no measurement stands behind the
# number itself.
CHUNK = 512


class TransformersDrafter:
    """Implements `wisp.edge.drafter.base.Drafter`."""

    def __init__(
        self,
        directory: str | Path,
        *,
        max_sessions: int,
        max_branches: int = 1,
        max_model_len: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        num_threads: int | None = None,
    ) -> None:
        """`max_branches`: sequences of one generation in a step, beside one of each other."""
        num_spare = max_branches - 1
        num_slots = max_sessions + num_spare
        self._model = SlotModel(
            directory, num_slots, max_model_len, device, dtype, num_threads, exact=False
        )
        self.vocabulary = read_vocabulary(Path(directory), self._model.vocab_size)
        self.vocab_size = self.vocabulary.bound(self._model.vocab_size)
        self.max_model_len = self._model.max_len
        self.max_branches = max_branches
        self._sequences = Sequences(max_sessions, num_spare, self._model.copy)

    def open(self, key: int) -> None:
        self._sequences.open(key)

    def close(self, key: int) -> None:
        self._sequences.close(key)

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        if not jobs:
            return []
        slots = self._sequences.assign(jobs)
        pending = [(slot, job.tokens) for slot, job in zip(slots, jobs, strict=True)]
        while True:
            items = [self._next_item(slot, tokens) for slot, tokens in pending]
            longer = [item for item in items if item.num_logits == 0]
            if not longer:
                break
            self._model.forward(longer)
            _remember(pending, longer)
        logits = self._model.forward(items)
        _remember(pending, items)
        return propose(logits.float().cpu().numpy(), jobs, self.vocabulary.ids)

    def _next_item(self, slot: Cached, tokens: Sequence[int]) -> Item:
        start = len(slot.held)
        rest = self.vocabulary.own(tokens[start : start + CHUNK])
        return Item(slot.index, start, rest, int(start + len(rest) == len(tokens)))


def _remember(pending: Sequence[tuple[Cached, Sequence[int]]], items: Sequence[Item]) -> None:
    counts = {item.slot: len(item.tokens) for item in items}
    for slot, tokens in pending:
        start = len(slot.held)
        slot.held.extend(tokens[start : start + counts.get(slot.index, 0)])
