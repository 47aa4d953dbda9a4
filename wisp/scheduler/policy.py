"""Who takes part in the next step, and with how many tokens. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from wisp.core import Batch, Directive, Seat, Session


class Policy(Protocol):
    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        """The batch of the next step; empty when there is nothing to do yet."""

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        """When `schedule` would seat somebody if no message came before; None: never."""

    def directive(self, session: Session) -> Directive:
        """What the session's edge is asked to do from now on."""


class Fcfs:
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
        batch = Batch()
        room = self._max_step_tokens
        ready = sorted(
            (s for s in sessions if self._ready_s(s, now) <= now),
            key=lambda s: (not s.decoding, s.committed_s),
        )
        for session in ready:
            if room <= 0:
                break
            num_context = min(session.num_missing, room)
            seat = Seat(session, num_context)
            if seat.chooses:
                most = min(room - num_context, session.num_remaining - 1)
                seat.draft = session.buffer[:most]
            room -= seat.num_tokens
            batch.seats.append(seat)
        return batch

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        return min((self._ready_s(s, now) for s in sessions), default=None)

    def _ready_s(self, session: Session, now: float) -> float:
        waits = session.decoding and session.waits_for_edge
        if not waits or session.edge_resting or len(session.buffer) >= self._block_tokens:
            return now
        return session.due_s
