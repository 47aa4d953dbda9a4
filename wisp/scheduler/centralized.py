from __future__ import annotations

from collections.abc import Collection

from wisp.core import REST, Batch, Directive, Session
from wisp.scheduler.base import Policy
from wisp.scheduler.seating import seat_in_order


class Centralized(Policy):
    """The baseline without edges: continuous batching, one token for everybody in every step."""

    def __init__(self, max_step_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return REST

    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        order = sorted(sessions, key=lambda s: (not s.decoding, s.committed_s))
        batch = seat_in_order(order, self._max_step_tokens, drafts=False)
        for seat in batch.seats:
            seat.edge_late = False  # nobody was waited for
        return batch

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        return now if sessions else None
