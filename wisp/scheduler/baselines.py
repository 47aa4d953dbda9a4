"""The baselines: policies like any other, so that what is compared is the rule alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from operator import mul

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import REST, Directive
from wisp.core.session import Session
from wisp.estimator.base import Estimator
from wisp.estimator.shape import EMPTY, shape_of
from wisp.scheduler.base import Policy, Situation


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
            seat.draft = session.buffer[: min(room - seat.num_context, session.max_drafts)]
        seat.edge_late = session.waits_for_edge and seat.chooses and seat.num_tokens == 1
        room -= seat.num_tokens
        batch.seats.append(seat)
    return batch


class Centralized(Policy):
    """The baseline without edges: continuous batching, one token for everybody in every step."""

    def __init__(self, estimator: Estimator, max_step_tokens: int) -> None:
        super().__init__(estimator)
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return REST

    def schedule(self, situation: Situation) -> Batch:
        order = sorted(situation.sessions, key=lambda s: (not s.decoding, s.committed_s))
        batch = seat_in_order(order, self._max_step_tokens, drafts=False)
        for seat in batch.seats:
            seat.edge_late = False  # nobody was waited for
        return batch


class _Blocks(Policy):
    """Of edges with one fixed directive.

    A session that waits for its edge is ready when the edge rests, when `block_tokens` drafts have
    come, or when its next token falls due (law 2: no edge holds a user up).
    """

    def __init__(
        self, estimator: Estimator, directive: Directive, block_tokens: int, max_step_tokens: int
    ) -> None:
        super().__init__(estimator)
        self._directive = directive
        self._block_tokens = block_tokens
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return self._directive

    def wake_s(self, situation: Situation) -> float | None:
        return min((self._ready_s(s, situation.now) for s in situation.sessions), default=None)

    def _ready(self, situation: Situation) -> list[Session]:
        now = situation.now
        return [s for s in situation.sessions if self._ready_s(s, now) <= now]

    def _ready_s(self, session: Session, now: float) -> float:
        waits = session.decoding and session.waits_for_edge
        rests = session.edge_resting and not session.num_pending  # else its verdict is on the way
        if not waits or rests or len(session.buffer) >= self._block_tokens:
            return now
        return session.next_due_s


class Fcfs(_Blocks):
    """First come, first served: whoever is ready joins the next step.

    Verification comes before prefill, so that a long prompt cannot delay a verdict by more than one
    chunk.
    """

    def schedule(self, situation: Situation) -> Batch:
        ready = sorted(self._ready(situation), key=lambda s: (not s.decoding, s.committed_s))
        return seat_in_order(ready, self._max_step_tokens)


class Sled(_Blocks):
    """The baseline SLED (arXiv 2506.09397): static batches in arrival order, fixed draft length.

    A step is taken when `batch_size` sessions are ready, or when the oldest of them has waited
    `batch_wait_s`; whoever else is ready waits for the next batch. Unlike the original, an edge
    that sends nothing is given up at its deadline, so that no session hangs.
    """

    def __init__(
        self,
        estimator: Estimator,
        directive: Directive,
        block_tokens: int,
        max_step_tokens: int,
        *,
        batch_size: int,
        batch_wait_s: float,
    ) -> None:
        super().__init__(estimator, directive, block_tokens, max_step_tokens)
        self._batch_size = batch_size
        self._batch_wait_s = batch_wait_s

    def schedule(self, situation: Situation) -> Batch:
        now = situation.now
        if self._start_s(situation) > now:
            return Batch()
        ready = self._ready(situation)
        ready.sort(key=lambda s: self._arrived_s(s, now))
        return seat_in_order(ready[: self._batch_size], self._max_step_tokens)

    def wake_s(self, situation: Situation) -> float | None:
        return self._start_s(situation) if situation.sessions else None

    def _start_s(self, situation: Situation) -> float:
        """When the batch is full, or its first member has waited long enough."""
        sessions, now = situation.sessions, situation.now
        full = min(self._batch_size, len(sessions))
        times = sorted(self._ready_s(s, now) for s in sessions)
        oldest = min((self._waited_out_s(s, now) for s in sessions), default=now)
        return max(now, min(times[full - 1], oldest)) if sessions else now

    def _waited_out_s(self, session: Session, now: float) -> float:
        return max(self._ready_s(session, now), self._arrived_s(session, now) + self._batch_wait_s)

    def _arrived_s(self, session: Session, now: float) -> float:
        """When the session joined the queue: with its drafts, its deadline or its last token."""
        if session.buffer:
            return max(session.stream.arrived_s, session.committed_s)
        waits = session.decoding and session.waits_for_edge
        return session.next_due_s if waits else session.committed_s


class WispPaper(_Blocks):
    """The rule of the paper (arXiv 2601.11652) on requests: whole blocks, taken or left.

    Requests about to pass their latest start go first, earliest deadline first; the rest by
    expected accepted tokens for each predicted millisecond. Each admission checks that the batch
    still ends before the earliest deadline in it; those already lost bind nobody.
    """

    def schedule(self, situation: Situation) -> Batch:
        now = situation.now
        seats = [self._whole(session) for session in self._ready(situation)]
        all_s = self.estimator.upper_s(shape_of(Batch(seats)))
        batch, limit_s = Batch(), math.inf
        shape = EMPTY
        for urgent, _, seat in sorted(
            (self._rank(seat, now + 2.0 * all_s) for seat in seats), key=lambda rank: rank[:2]
        ):
            room = self._max_step_tokens - shape.num_tokens
            if room <= 0:
                break
            self._trim(seat, room)
            joined = shape.joined(shape_of(Batch([seat])))
            time_s = self.estimator.upper_s(joined)
            slack_s = seat.session.promised_s - now
            if slack_s < time_s and urgent == 0:
                slack_s = math.inf  # lost whatever is done
            if batch and time_s > min(limit_s, slack_s):
                continue
            limit_s = min(limit_s, slack_s)
            shape = joined
            batch.seats.append(seat)
        return batch

    def _whole(self, session: Session) -> Seat:
        seat = Seat(session, session.num_missing)
        if seat.chooses:
            seat.draft = session.buffer[: session.max_drafts]
        seat.edge_late = session.waits_for_edge and session.decoding and not seat.draft
        return seat

    def _trim(self, seat: Seat, room: int) -> None:
        seat.num_context = min(seat.num_context, room)
        seat.draft = seat.draft[: room - seat.num_context] if seat.chooses else []

    def _rank(self, seat: Seat, horizon_s: float) -> tuple[int, float, Seat]:
        session = seat.session
        if session.promised_s < horizon_s:
            return 0, session.promised_s, seat
        acceptance = session.stream.acceptance[session.num_pending :][: len(seat.draft)]
        time_s = self.estimator.predict_s(shape_of(Batch([seat])))
        return 1, -(1.0 + sum(accumulate(acceptance, mul))) / max(time_s, 1e-9), seat
