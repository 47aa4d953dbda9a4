"""For whom the server's own drafter drafts behind a step, and how far. Pure: no I/O, no clock.

An edge's drafts cost the target their verification alone. Own drafts also cost the time in which
they are made, as the drafter runs on the target's device: so they pay for sessions whose edges have
nothing in time, as long as a step's time is not that of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wisp.core.batch import Batch, Seat
from wisp.core.table import Bools, Floats, Ints, Table
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.speculation import LEAST, REST_S

# Steps within which the next draft of an edge is waited for in place of own ones. Chosen: own
# drafts asked for now are verified in the next step, and a draft that comes in the one behind it
# saves as much; an edge that is slower leaves steps without drafts.
_SOON = 2.0
# Own drafts of each session when they are tried again. Chosen: a pass of the drafter behind the
# first one, so that both kinds are measured, at the cost of hardly a step.
_TRIAL = 2


class OwnDrafting:
    """Learns what a pass of the drafter takes, apart from the target's steps."""

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens`: own drafts of a session; 0: nobody makes any."""
        self.is_on = max_tokens > 0
        self._max_tokens = max_tokens
        self._passes = StepTimeEstimator()
        self._asked_s = 0.0  # when own drafts were made last

    def observe(self, batch: Batch, drafting_s: float, now: float) -> None:
        """The drafter took so long for the seats of a step that asked."""
        seats = [seat for seat in batch.seats if seat.num_own]
        if seats:
            self._asked_s = now
            num_passes = max(seat.num_own for seat in seats)
            self._passes.observe(_pass_of(seats), drafting_s / num_passes)

    def ask(
        self,
        table: Table,
        rows: Ints,
        num_drafts: Ints,
        shape: StepShape,
        curve: Curve,
        step_s: float,
        now: float,
    ) -> Ints:
        """Own drafts to make, [rows], behind a step in which `rows` decode with so many drafts.

        `shape`: of that step without any drafts. The next one is taken to be as this one is, but
        for the drafts of those that ask.
        """
        room: Ints = np.minimum(self._max_tokens, table.room[rows] - 1)
        asks = self._may_ask(table, rows, num_drafts, step_s, now) & (room > 0)
        room *= asks
        if not asks.any():
            return room
        drafts = table.cumulative[rows]
        is_taken = ~asks[:, None] & (np.arange(drafts.shape[1]) < num_drafts[:, None])
        value = len(rows) + float(drafts[is_taken].sum())
        shape = shape.with_drafts(int(is_taken.sum()))
        depth = np.arange(1, self._max_tokens + 1)
        gains = (table.own_rate[rows][:, None] ** depth) * (depth <= room[:, None])
        pass_s = self._pass_s(int(asks.sum()), int(table.length[rows][asks].sum()), now)
        count = _best_count(gains, room, shape, value, curve, pass_s or 0.0)
        counts: Ints = np.minimum(room, min(count, _TRIAL) if pass_s is None else count)
        return counts

    def _may_ask(
        self, table: Table, rows: Ints, num_drafts: Ints, step_s: float, now: float
    ) -> Bools:
        """[rows]: no other drafts will be there in time."""
        wait_s, _, _ = table.edges(now)
        # With drafts in flight nobody knows yet where the text ends.
        is_known = (table.pending[rows] <= 1) & (table.own_rate[rows] > 0.0)
        is_late = wait_s[rows] > _SOON * step_s
        found: Bools = is_known & is_late & (table.at_hand[rows] <= num_drafts)
        return found

    def _pass_s(self, num_sessions: int, num_context: int, now: float) -> float | None:
        """Of the drafter, for so many sessions; None: it is to be tried, whatever it takes."""
        if self._passes.num_observed == 0 or now - self._asked_s > REST_S:
            return None
        shape = StepShape(num_sessions, num_context, 0.0, num_sessions)
        return self._passes.curve.time_s(shape)


def _best_count(
    gains: Floats, room: Ints, shape: StepShape, value: float, curve: Curve, pass_s: float
) -> int:
    """That maximises (expected committed tokens) / (time of the next step and the passes).

    gains: [sessions, own drafts], cumulative acceptance; room: [sessions], the most for each.
    """
    best, rate = 0, value / curve.time_s(shape) * (1.0 + LEAST)
    for count in range(1, int(room.max()) + 1):
        value += float(gains[:, count - 1].sum())
        then = shape.with_drafts(int(np.minimum(count, room).sum()))
        found = value / (curve.time_s(then) + count * pass_s)
        if found > rate:
            best, rate = count, found
    return best


def _pass_of(seats: Sequence[Seat]) -> StepShape:
    """Of the mean pass for these: each session's next token, behind all its text."""
    num_context = sum(len(seat.session.tokens) for seat in seats)
    return StepShape(len(seats), num_context, 0.0, len(seats))
