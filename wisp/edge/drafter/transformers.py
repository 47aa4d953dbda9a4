"""The drafter that runs a small Hugging Face model over a slot cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wisp.edge.drafter.cached import CachedDrafter, Pending
from wisp.edge.drafter.sequences import Cached
from wisp.models.draft_vocabulary import read_vocabulary
from wisp.models.slots import Item, SlotModel

# The most tokens of one sequence in one forward. It bounds the memory that a long prompt takes, and
# the time for which the drafts of others wait behind it. Chosen: no measurement stands behind the
# number itself.
CHUNK = 512


class TransformersDrafter(CachedDrafter):
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
        host_kv_bytes: int = 0,
    ) -> None:
        num_slots = max_sessions + max_branches - 1
        self._model = SlotModel(
            directory, num_slots, max_model_len, device, dtype, num_threads, exact=False
        )
        super().__init__(
            max_sessions, max_branches, self._model.copy, _Slots(self._model), host_kv_bytes
        )
        num_logits = self._model.vocab_size
        self.speak(read_vocabulary(Path(directory), num_logits), num_logits)
        self.max_model_len = self._model.max_len

    def _logits(self, pending: Pending) -> NDArray[np.float32]:
        while longer := [each for each in pending if len(each[1]) - len(each[0].held) > CHUNK]:
            self._model.forward([self._next_item(*each, num_logits=0) for each in longer])
            for slot, tokens in longer:
                start = len(slot.held)
                slot.held.extend(tokens[start : start + CHUNK])
        logits = self._model.forward([self._next_item(*each, num_logits=1) for each in pending])
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    def _next_item(self, slot: Cached, tokens: Sequence[int], *, num_logits: int) -> Item:
        start = len(slot.held)
        return Item(
            slot.index, start, self.vocabulary.own(tokens[start : start + CHUNK]), num_logits
        )


class _Slots:
    """Implements `wisp.edge.drafter.parked.Slots`."""

    def __init__(self, model: SlotModel) -> None:
        self._model = model

    def num_bytes(self, slot: int, num_tokens: int) -> int:
        return num_tokens * self._model.kv_bytes

    def save(self, slot: int, num_tokens: int) -> list[Tensor]:
        return self._model.save(slot, num_tokens)

    def restore(self, slot: int, saved: Sequence[Tensor]) -> bool:
        self._model.restore(slot, saved)
        return True
