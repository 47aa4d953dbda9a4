from __future__ import annotations

from collections.abc import Collection

from wisp.core import Batch, Directive, Session
from wisp.scheduler.base import Policy
from wisp.scheduler.seating import ready_s, seat_in_order


class Fcfs(Policy):
    """First come, first served, with a fixed window: whoever is ready joins the next step.

    A session that waits for its edge is ready when the edge rests, when `block_tokens` drafts have
    come, or when its next token falls due (law 2: no edge holds a user up). Verification comes
    before prefill, so that a long prompt cannot delay a verdict by more than one chunk.
    """

    def __init__(self, directive: Directive, block_tokens: int, max_step_tokens: int) -> None:
        self._directive = directive
        self._block_tokens = block_tokens
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return self._directive

    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        ready = sorted(
            (s for s in sessions if ready_s(s, self._block_tokens, now) <= now),
            key=lambda s: (not s.decoding, s.committed_s),
        )
        return seat_in_order(ready, self._max_step_tokens)

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        return min((ready_s(s, self._block_tokens, now) for s in sessions), default=None)
