"""The server's own drafter on torch: a small model over slots, beside the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wisp.core.own_drafts import Proposed
from wisp.core.prefix import common_prefix
from wisp.core.session import Session
from wisp.errors import ConfigError
from wisp.models.slots import Item, SlotModel
from wisp.sampling.draft import Ranked, rank

# The most tokens of one sequence in one forward. It bounds the memory that a long prompt takes.
# Chosen: as of an edge's drafter (wisp/edge/drafter/transformers.py).
_CHUNK = 512


@dataclass(slots=True)
class _Slot:
    index: int
    held: list[int] = field(default_factory=list)  # tokens whose KV it has


@dataclass(slots=True)
class _Job:
    """Own drafts of one session in the making."""

    slot: _Slot
    session: Session
    tokens: list[int]  # the text, and the drafts so far
    num: int  # of drafts
    acceptance: list[float] = field(default_factory=list)

    @property
    def num_missing(self) -> int:
        return len(self.tokens) - len(self.slot.held)

    def item(self, num_logits: int) -> Item:
        start = len(self.slot.held)
        return Item(self.slot.index, start, self.tokens[start : start + _CHUNK], num_logits)


class OwnDrafter:
    """Drafts with the noise of the target's choices, so that they agree at every temperature.

    It has a slot for each session that it drafts for, as many as there are: who comes when all are
    taken gets that of the session which has drafted least recently, whose KV is computed anew.
    """

    def __init__(
        self,
        directory: Path,
        *,
        num_slots: int,
        max_model_len: int,
        vocab_size: int,
        device: str,
        dtype: torch.dtype | str | None,
    ) -> None:
        """`max_model_len`, `vocab_size`: the target's. Raises ConfigError."""
        self._model = SlotModel(directory, num_slots, max_model_len, device, dtype, exact=False)
        if self._model.vocab_size != vocab_size:
            raise ConfigError(
                f"the drafter in {directory} has {self._model.vocab_size} tokens, the target "
                f"{vocab_size}: 'engine.drafter.model' must have the target's tokenizer"
            )
        self._free = list(range(num_slots))[::-1]
        self._slots: dict[int, _Slot] = {}  # by session id, who has drafted last at the end

    def close(self, session: Session) -> None:
        slot = self._slots.pop(session.id, None)
        if slot:
            self._free.append(slot.index)

    def propose(self, asked: Sequence[tuple[Session, Sequence[int], int]]) -> list[Proposed]:
        """For each session, behind its tokens and these, so many drafts."""
        jobs = [
            _Job(self._slot(session), session, [*session.tokens, *chosen], num)
            for session, chosen, num in asked
        ]
        for job in jobs:
            # The last token is computed in any case: its logits are wanted.
            del job.slot.held[common_prefix(job.slot.held, job.tokens[:-1]) :]
        ends = [len(job.tokens) for job in jobs]
        while drafting := [job for job in jobs if len(job.acceptance) < job.num]:
            self._pass(drafting)
        return [
            Proposed(job.tokens[end:], job.acceptance) for job, end in zip(jobs, ends, strict=True)
        ]

    def _pass(self, jobs: Sequence[_Job]) -> None:
        """One more draft for each."""
        while longer := [job for job in jobs if job.num_missing > _CHUNK]:
            self._model.forward([job.item(num_logits=0) for job in longer])
            for job in longer:
                start = len(job.slot.held)
                job.slot.held.extend(job.tokens[start : start + _CHUNK])
        logits = self._model.forward([job.item(num_logits=1) for job in jobs])
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        samplings = [job.session.sampling for job in jobs]
        ranked = rank(found, samplings, [len(job.tokens) for job in jobs], num=1)
        for job, best in zip(jobs, ranked, strict=True):
            job.slot.held.extend(job.tokens[len(job.slot.held) :])
            job.tokens.append(int(best.tokens[0]))
            job.acceptance.append(_share(best))

    def _slot(self, session: Session) -> _Slot:
        slot = self._slots.pop(session.id, None)
        if slot is None and self._free:
            slot = _Slot(self._free.pop())
        elif slot is None:
            slot = self._slots.pop(next(iter(self._slots)))
            slot.held.clear()
        self._slots[session.id] = slot
        return slot


def _share(ranked: Ranked) -> float:
    """The first one's part of softmax(scores): of greedy drafts, its likelihood."""
    return float(1.0 / np.exp(ranked.scores - ranked.scores[0]).sum())
