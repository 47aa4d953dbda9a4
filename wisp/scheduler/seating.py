"""What the simple policies share: when a session is ready, and seats in a given order."""

from __future__ import annotations

from collections.abc import Iterable

from wisp.core import Batch, Seat, Session


def ready_s(session: Session, block_tokens: int, now: float) -> float:
    """When a session need wait no longer for its edge: its drafts are here, or its token is due."""
    waits = session.decoding and session.waits_for_edge
    if not waits or session.edge_resting or len(session.buffer) >= block_tokens:
        return now
    return session.due_s


def seat_in_order(
    sessions: Iterable[Session], max_step_tokens: int, *, drafts: bool = True
) -> Batch:
    """A seat for each, as long as tokens remain; the last one gets what is left."""
    batch = Batch()
    room = max_step_tokens
    for session in sessions:
        if room <= 0:
            break
        seat = Seat(session, min(session.num_missing, room))
        if drafts and seat.chooses:
            most = min(room - seat.num_context, session.num_remaining - 1)
            seat.draft = session.buffer[:most]
        seat.edge_late = session.waits_for_edge and seat.chooses and seat.num_tokens == 1
        room -= seat.num_tokens
        batch.seats.append(seat)
    return batch
