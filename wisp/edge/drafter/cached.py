"""What all drafters share whose model keeps a cache of sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wisp.edge.drafter.base import DraftJob, Proposal
from wisp.edge.drafter.parked import Parked, Slots
from wisp.edge.drafter.propose import propose
from wisp.edge.drafter.sequences import Cached, Copy, Sequences
from wisp.models.draft_vocabulary import Vocabulary

# A sequence of the cache for each job, and all tokens of the job: those behind `held` are missing.
Pending = Sequence[tuple[Cached, Sequence[int]]]


class SequencesDrafter(ABC):
    """Implements `wisp.edge.drafter.base.Drafter` where a model keeps sequences, wherever it is."""

    max_model_len: int
    _sequences: Sequences

    def open(self, key: int) -> None:
        self._sequences.open(key)

    def close(self, key: int) -> None:
        self._sequences.close(key)

    def step(self, jobs: Sequence[DraftJob]) -> list[Proposal]:
        if not jobs:
            return []
        if max(len(job.tokens) for job in jobs) > self.max_model_len:
            raise ValueError(f"a sequence holds {self.max_model_len} tokens, not more")
        assigned = self._sequences.assign(jobs)
        try:
            proposals = self._proposals(assigned, jobs)
        except Exception:
            for cached in assigned:  # nobody knows what was computed of them
                cached.held.clear()
            raise
        for cached, job in zip(assigned, jobs, strict=True):
            cached.held.extend(job.tokens[len(cached.held) :])
        return proposals

    @abstractmethod
    def _proposals(self, assigned: Sequence[Cached], jobs: Sequence[DraftJob]) -> list[Proposal]:
        """Compute what is missing behind `held` of the sequence of each job."""


class CachedDrafter(SequencesDrafter):
    """Over a subclass's model, which gives logits.

    `max_branches`: sequences of one generation in a step, beside one of each other. `slots`: the
    model's cache, of whose content up to `host_kv_bytes` are kept for conversations that come back.
    """

    def __init__(
        self, max_sessions: int, max_branches: int, copy: Copy, slots: Slots, host_kv_bytes: int
    ) -> None:
        self.max_branches = max_branches
        self.max_model_len = 0  # of the model, once it is loaded
        self.parked = Parked(slots, host_kv_bytes)
        self._sequences = Sequences(max_sessions, max_branches - 1, copy, self.parked)

    def speak(self, vocabulary: Vocabulary, num_logits: int) -> None:
        """Translate between its own tokens and the target's."""
        self.vocabulary = vocabulary
        self.vocab_size = vocabulary.bound(num_logits)

    def _proposals(self, assigned: Sequence[Cached], jobs: Sequence[DraftJob]) -> list[Proposal]:
        pending = [(cached, job.tokens) for cached, job in zip(assigned, jobs, strict=True)]
        logits = self._logits(pending)
        return propose(logits[:, : self.vocabulary.size], jobs, self.vocabulary.ids)

    @abstractmethod
    def _logits(self, pending: Pending) -> NDArray[np.float32]:
        """Compute what is missing: the logits [jobs, num_logits] behind each job's last token.

        What it computes before its last forward it appends to `held` itself.
        """
