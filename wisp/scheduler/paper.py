from __future__ import annotations

import math
from collections.abc import Collection
from itertools import accumulate
from operator import mul

from wisp.core import Batch, Directive, Seat, Session
from wisp.estimator.base import Estimator
from wisp.estimator.shape import SeatedShape, shape_of
from wisp.scheduler.base import Policy
from wisp.scheduler.seating import ready_s


class WispPaper(Policy):
    """The rule of the paper (arXiv 2601.11652) on requests: whole blocks, taken or left.

    Requests about to pass their latest start go first, earliest deadline first; the rest by
    expected accepted tokens for each predicted millisecond. Each admission checks that the batch
    still ends before the earliest deadline in it; those already lost bind nobody.
    """

    estimator: Estimator

    def __init__(
        self, estimator: Estimator, directive: Directive, block_tokens: int, max_step_tokens: int
    ) -> None:
        self.estimator = estimator
        self._directive = directive
        self._block_tokens = block_tokens
        self._max_step_tokens = max_step_tokens

    def directive(self, session: Session) -> Directive:
        return self._directive

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        return min((ready_s(s, self._block_tokens, now) for s in sessions), default=None)

    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        seats = [self._whole(s) for s in sessions if ready_s(s, self._block_tokens, now) <= now]
        all_s = self.estimator.upper_s(shape_of(Batch(seats)))
        batch, limit_s = Batch(), math.inf
        tokens, context, product = 0, 0, 0.0
        for urgent, _, seat in sorted(
            (self._rank(seat, now + 2.0 * all_s) for seat in seats), key=lambda rank: rank[:2]
        ):
            room = self._max_step_tokens - tokens
            if room <= 0:
                break
            self._trim(seat, room)
            more = shape_of(Batch([seat]))
            shape = SeatedShape(
                tokens + more[0], context + more[1], product + more[2], len(batch) + 1
            )
            time_s = self.estimator.upper_s(shape)
            slack_s = seat.session.promised_s - now
            if slack_s < time_s and urgent == 0:
                slack_s = math.inf  # lost whatever is done
            if batch and time_s > min(limit_s, slack_s):
                continue
            limit_s = min(limit_s, slack_s)
            tokens, context, product = shape
            batch.seats.append(seat)
        return batch

    def _whole(self, session: Session) -> Seat:
        seat = Seat(session, session.num_missing)
        if seat.chooses:
            seat.draft = session.buffer[: session.num_remaining - 1]
        seat.edge_late = session.waits_for_edge and session.decoding and not seat.draft
        return seat

    def _trim(self, seat: Seat, room: int) -> None:
        seat.num_context = min(seat.num_context, room)
        seat.draft = seat.draft[: room - seat.num_context] if seat.chooses else []

    def _rank(self, seat: Seat, horizon_s: float) -> tuple[int, float, Seat]:
        session = seat.session
        if session.promised_s < horizon_s:
            return 0, session.promised_s, seat
        survival = accumulate(session.acceptance[: len(seat.draft)], mul)
        time_s = self.estimator.predict_s(shape_of(Batch([seat])))
        return 1, -(1.0 + sum(survival)) / max(time_s, 1e-9), seat
