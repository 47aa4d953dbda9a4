from __future__ import annotations

from collections.abc import Collection

from wisp.core import Batch, Directive, Session
from wisp.scheduler.base import Policy
from wisp.scheduler.seating import ready_s, seat_in_order


class Sled(Policy):
    """The baseline SLED (arXiv 2506.09397): static batches in arrival order, fixed draft length.

    A step is taken when `batch_size` sessions are ready, or when the oldest of them has waited
    `batch_wait_s`; whoever else is ready waits for the next batch. Unlike the original, an edge
    that sends nothing is given up at its deadline, so that no session hangs.
    """

    def __init__(
        self, block_tokens: int, batch_size: int, batch_wait_s: float, max_step_tokens: int
    ) -> None:
        self._directive = Directive(window=block_tokens, threshold=0.0)
        self._block_tokens = block_tokens
        self._batch_size = batch_size
        self._batch_wait_s = batch_wait_s
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return self._directive

    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        if self._start_s(sessions, now) > now:
            return Batch()
        ready = [s for s in sessions if self._ready_s(s, now) <= now]
        ready.sort(key=lambda s: self._arrived_s(s, now))
        return seat_in_order(ready[: self._batch_size], self._max_step_tokens)

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        return self._start_s(sessions, now) if sessions else None

    def _start_s(self, sessions: Collection[Session], now: float) -> float:
        """When the batch is full, or its first member has waited long enough."""
        full = min(self._batch_size, len(sessions))
        times = sorted(self._ready_s(s, now) for s in sessions)
        oldest = min((self._waited_out_s(s, now) for s in sessions), default=now)
        return max(now, min(times[full - 1], oldest)) if sessions else now

    def _waited_out_s(self, session: Session, now: float) -> float:
        return max(self._ready_s(session, now), self._arrived_s(session, now) + self._batch_wait_s)

    def _ready_s(self, session: Session, now: float) -> float:
        return ready_s(session, self._block_tokens, now)

    def _arrived_s(self, session: Session, now: float) -> float:
        """When the session joined the queue: with its drafts, its deadline or its last token."""
        if session.buffer:
            return max(session.block_arrived_s, session.committed_s)
        waits = session.decoding and session.waits_for_edge
        return session.due_s if waits else session.committed_s
