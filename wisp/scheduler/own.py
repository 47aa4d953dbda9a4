"""For whom the server's own drafter drafts behind a step, and how far. Pure: no I/O, no clock.

An edge's drafts cost the target their verification alone. Own drafts also cost the time in which
they are made, as the drafter runs on the target's device: so they pay for sessions whose edges have
nothing in time, as long as a step's time is not that of its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wisp.core.batch import Batch, Seat
from wisp.core.smoothing import smoothed
from wisp.core.table import Floats, Ints, Table
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.guard import OwnGuard
from wisp.scheduler.speculation import REST_S

# The least that own drafts must gain, as a share. Chosen: step times are known no better.
_GAIN = 0.1
# Weight of the newest step in the smoothed gaps. Chosen: a memory of some 10 steps.
_NEW = 0.1
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
        self._guard = OwnGuard()
        self._asked_s = 0.0  # when own drafts were made last
        self._over_s = 0.0  # when the last step was
        self._last_asked = False  # own drafts were made in it
        # From one step to the next, by whether own drafts were made: they are waited for, so the
        # host is not hidden behind the next step.
        self._gaps_s = {False: 0.0, True: 0.0}

    def observe(
        self,
        batch: Batch,
        num_committed: Sequence[int],
        step_time_s: float,
        now: float,
        drafting_s: float,
    ) -> None:
        """As `Policy.observe`: the drafter took so long for the seats of a step that asked."""
        if not self.is_on:
            return
        self._guard.observe(batch, num_committed, step_time_s, now, drafting_s)
        gap_s = min(max(0.0, now - step_time_s - self._over_s), step_time_s)
        before = self._gaps_s[self._last_asked]
        self._gaps_s[self._last_asked] = smoothed(before, gap_s, _NEW)
        seats = [seat for seat in batch.seats if seat.num_own]
        self._over_s, self._last_asked = now, bool(seats)
        if seats:
            self._asked_s = now
            num_passes = max(seat.num_own for seat in seats)
            self._passes.observe(_pass_of(seats), drafting_s / num_passes)

    def ask(
        self,
        table: Table,
        rows: Ints,
        num_drafts: Ints,
        worth: Floats,
        shape: StepShape,
        curve: Curve,
        step_s: float,
        now: float,
    ) -> Ints:
        """Own drafts to make, [rows], behind a step in which `rows` decode with so many drafts.

        `worth`: of a token of each, [rows].
        `shape`: of that step without any drafts, as which the next one is taken to be.
        """
        room: Ints = np.minimum(self._max_tokens, table.room[rows] - 1)
        room *= (table.own_rate[rows] > 0.0) & (room > 0)
        room *= not self._guard.rests(table.sessions, now, has_prompts=table.has_prompts)
        if not room.any():
            return room
        left = np.zeros_like(table.at_hand)
        left[rows] = table.at_hand[rows] - num_drafts
        from_edges = table.from_edges(left, step_s)[rows]
        depth = np.arange(1, self._max_tokens + 1)
        own = np.cumsum(table.own_rate[rows][:, None] ** depth * (depth <= room[:, None]), axis=1)
        asking = np.flatnonzero(own[:, -1] > from_edges)
        pass_s = self._pass_s(len(asking), int(table.length[rows][asking].sum()), now)
        gap_s = max(0.0, self._gaps_s[True] - self._gaps_s[False])
        count = _best_count(own, from_edges, room, worth, shape, curve, pass_s or 0.0, gap_s)
        if pass_s is None:
            count = min(count, _TRIAL)
        if count:
            room *= own[:, count - 1] > from_edges
        counts: Ints = np.minimum(room, count)
        return counts

    def drafting_s(self, table: Table, rows: Ints, num_own: Ints, now: float) -> float:
        """What making so many drafts for these will take, [rows]; 0.0: unknown."""
        asking = np.flatnonzero(num_own)
        if not len(asking):
            return 0.0
        pass_s = self._pass_s(len(asking), int(table.length[rows][asking].sum()), now)
        return int(num_own.max()) * (pass_s or 0.0)

    def _pass_s(self, num_sessions: int, num_context: int, now: float) -> float | None:
        """Of the drafter, for so many sessions; None: it is to be tried, whatever it takes."""
        if self._passes.num_observed == 0 or now - self._asked_s > REST_S:
            return None
        shape = StepShape(num_sessions, num_context, 0.0, num_sessions)
        return self._passes.curve.time_s(shape)


def _best_count(
    own: Floats,
    from_edges: Floats,
    room: Ints,
    worth: Floats,
    shape: StepShape,
    curve: Curve,
    pass_s: float,
    gap_s: float,
) -> int:
    """That maximises (worth of the expected tokens) / (time of the next step and the passes).

    own: [sessions, own drafts], the accepted ones of so many; from_edges: [sessions], those that
    are there without them; room: [sessions], the most for each; worth: [sessions], of a token;
    gap_s: that any of them take.
    """
    best, rate = 0, float(worth @ (1.0 + from_edges)) / curve.time_s(shape) * (1.0 + _GAIN)
    for count in range(1, int(room.max()) + 1):
        gains = own[:, count - 1]
        asks = gains > from_edges
        if not asks.any():
            continue
        value = float(worth @ (1.0 + np.where(asks, gains, from_edges)))
        then = shape.with_drafts(int(np.minimum(count, room)[asks].sum()))
        found = value / (curve.time_s(then) + count * pass_s + gap_s)
        if found > rate:
            best, rate = count, found
    return best


def _pass_of(seats: Sequence[Seat]) -> StepShape:
    """Of the mean pass for these: each session's next token, behind all its text."""
    num_context = sum(len(seat.session.tokens) for seat in seats)
    return StepShape(len(seats), num_context, 0.0, len(seats))
