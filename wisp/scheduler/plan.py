"""One decision in the making: who is seated, what that costs, and how long it may take."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from wisp.estimator.base import Estimator
from wisp.estimator.curve import Curve
from wisp.estimator.shape import EMPTY, StepShape
from wisp.scheduler.columns import Columns
from wisp.scheduler.knapsack import DraftPool
from wisp.scheduler.speculation import Load

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Seconds before its deadline is close that a session is seated at the earliest; a period of its own
# if that is less. Chosen: at 2 tokens/s and below a period is longer than it takes to make room.
_MAX_EARLY_S = 0.5
# Share of all sessions whose deadline is lost, from which on the server is late and not the edges.
# Chosen: a quarter; below it some edges are slow.
_LATE = 0.25
# A session waits for drafts if its next seat would bring fewer than this times the tokens that the
# same time brings on average. Chosen: below 1, so that equals do not wait for one another.
_POOR = 0.9
# A step up to so many times as long as one of a single token lies on the floor. Chosen: noise of
# 15 % hides the difference.
_FREE = 1.15
# Tokens of a prompt whose first token is late that are computed whatever else is promised. Chosen:
# as small as a step hardly notices, so that a prompt of 1000 is through in 60 steps.
_MIN_CHUNK = 16


class Plan:
    """Filled from the most to the least pressing; `limit_s` is the tightest slack still to hold.

    A deadline that the urgent sessions alone already break limits nothing: it is missed anyway,
    and the others' should not be.
    """

    def __init__(
        self,
        columns: Columns,
        estimator: Estimator,
        max_tokens: int,
        load: Load,
        now: float,
        cumulative: Floats,
    ) -> None:
        self._curve = estimator.curve
        self._upper = 1.0 + estimator.margin
        self._max_tokens = max_tokens
        self._columns = columns
        self._slack_s = columns.due_s - now
        self._order = np.argsort(columns.due_s, kind="stable")  # earliest deadline first
        ready = columns.decoding & ~columns.waiting
        seats = max(1, int(ready.sum()))
        plain_s = self._upper_s(StepShape(seats, int(columns.length[ready].sum()), 0.0, seats))
        # This step and the next; where drafts must save seats, this one: they gather meanwhile.
        both_s = 2.0 * max(load.step_s, plain_s)
        self._horizon_s = (load.step_s or plain_s) if load.scarce else both_s
        taken = cumulative > load.marginal_cost
        self._num_worth: Ints = taken.sum(axis=1)  # drafts of each that are worth their time
        worth = (cumulative * taken).sum(axis=1)
        self._held = columns.decoding & (columns.waiting | self._poor(worth, load))
        self._held &= not load.eager
        self._eager = load.eager
        # A period early: on the brink, every step would have to be a short one.
        early_s = np.minimum(columns.period_s, _MAX_EARLY_S) * ~(self._held | load.scarce)
        self.urgent: Bools = self._slack_s < self._horizon_s + early_s
        # Who is held back, with an edge in time by its own habit, is left waiting if the drafts
        # come before the deadline; or if it is lost, and the server is late, not the edge. It
        # would decode all at once, the dearest way, and stay late.
        expected_s = columns.expected_s()
        in_time = expected_s + plain_s < columns.due_s
        lost = self._slack_s < plain_s
        lost &= float(lost.mean()) > _LATE
        self.urgent &= ~(self._held & (now < expected_s) & (in_time | lost))
        # Where there is room for all, leaving somebody out saves less than it costs.
        self.urgent |= columns.decoding & ~self._held & load.fits
        self.decodes: Bools = np.zeros(len(columns.sessions), dtype=bool)
        self.chunks: dict[int, int] = {}  # prompt tokens, by row
        self._prefilling = ~columns.decoding
        self._has_prefill = bool(self._prefilling.any())
        self.shape = EMPTY
        self.limit_s = math.inf

    def _poor(self, worth: Floats, load: Load) -> Bools:
        """Whose next seat would bring fewer tokens for its time than steps do on average."""
        curve, columns = self._curve, self._columns
        token_s = curve.slope_s(len(columns.sessions))
        time_s = curve.seat_s + curve.context_s * columns.length + token_s * (1 + self._num_worth)
        found: Bools = (1.0 + worth) * load.per_token_s < _POOR * time_s
        return found

    @property
    def room(self) -> int:
        return self._max_tokens - self.shape.num_tokens

    def seat_urgent(self) -> None:
        """Those that would be late if left to the next step, the late ones included."""
        rows = self._rows(self._columns.decoding & self.urgent)
        late_prompts = self._rows(self._prefilling & self._prompt_urgent())
        reserve = min(_MIN_CHUNK, self._max_tokens // 2) if len(late_prompts) else 0
        self._decode(rows[: self._max_tokens - reserve])
        self._tighten(rows)
        for index, row in enumerate(late_prompts.tolist()):
            self._chunk(row, min_chunk=0 if index else _MIN_CHUNK)
        self.limit_s = math.inf
        self._tighten(rows)

    def seat_ready(self) -> None:
        """The next token of everybody else; who is held back joins free steps alone.

        Where not all fit, the longest text goes first: a session near its end soon frees its KV,
        and the deadlines of the others are held by the urgent seats.

        Decoding a session while its drafts are under way loses none of them: the tokens that both
        made agree, or the drafts were wrong.
        """
        columns = self._columns
        rest = columns.decoding & ~self.decodes & ~self.urgent
        ready = self._rows(rest & ~self._held)
        ready = ready[np.argsort(-columns.length[ready], kind="stable")]
        self._decode_within(ready, self._draft_room if self._eager else self._whole(ready))
        free = free_tokens(self._curve, self._max_tokens)
        free -= self.shape.num_tokens + self._num_hoped
        self._decode_within(self._rows(rest & self._held), min(free, self._draft_room))

    def _whole(self, rows: Ints) -> int:
        """How many of them fit with their drafts: where seats are dear, none is taken without."""
        room = self._draft_room - self._num_hoped
        return int((np.cumsum(1 + self._num_worth[rows]) <= room).sum())

    @property
    def _num_hoped(self) -> int:
        """Drafts of those seated that are worth their time."""
        return int(self._num_worth[self.decodes].sum())

    def fill_prompts(self, num_drafts: int) -> bool:
        """Prefill in what is left beside `num_drafts`, the earliest first token first."""
        before = dict(self.chunks)
        if self._has_prefill:
            for row in self._rows(self._prefilling).tolist():
                if self.room - num_drafts <= 0:
                    break
                self._chunk(row, min_chunk=0, beside=num_drafts)
        return self.chunks != before

    def lift_limit(self) -> None:
        """From here on no deadline keeps anything out of the step."""
        self.limit_s = math.inf

    def best_drafts(self, drafts: DraftPool) -> int:
        """How many to verify; every seated deadline holds with them."""
        room = max(0, min(self._draft_room, drafts.num_tokens))
        fitting = bisect_right(range(room + 1), self.limit_s, key=self._drafted_s) - 1
        if fitting <= 0:
            return 0
        return drafts.best_count(self.shape, float(self.decodes.sum()), self._curve, fitting)

    def _drafted_s(self, num_drafts: int) -> float:
        return self._upper_s(self.shape.with_drafts(num_drafts))

    @property
    def _draft_room(self) -> int:
        """A prompt that waits keeps a little of every step."""
        waits = self._has_prefill and not self.chunks
        return self.room - (min(_MIN_CHUNK, self._max_tokens // 4) if waits else 0)

    def _prompt_urgent(self) -> Bools:
        """A prompt needs several steps, each full of it."""
        full_s = self._upper_s(StepShape(self._max_tokens, 0, 0.0, 0))
        steps = np.ceil(self._columns.missing / self._max_tokens)
        found: Bools = self._slack_s < steps * full_s + self._horizon_s
        return found

    def _rows(self, mask: Bools) -> Ints:
        """Earliest deadline first."""
        return self._order[mask[self._order]]

    def _upper_s(self, shape: StepShape) -> float:
        return self._upper * self._curve.time_s(shape)

    def _decode(self, rows: Ints) -> None:
        self.decodes[rows] = True
        context = int(self._columns.length[rows].sum())
        self.shape = self.shape.joined(StepShape(len(rows), context, 0.0, len(rows)))

    def _decode_within(self, rows: Ints, max_seats: int) -> None:
        """As many as deadlines allow, theirs included."""
        rows = rows[: max(0, max_seats)]
        if len(rows) == 0:
            return
        limit_s = min(self.limit_s, float(self._slack_s[rows].min()))
        curve = self._curve
        seats = np.arange(1, len(rows) + 1)
        times_s = curve.tokens_s(seats + self.shape.num_tokens) + curve.rest_s(self.shape)
        times_s += curve.context_s * np.cumsum(self._columns.length[rows]) + curve.seat_s * seats
        count = int((self._upper * times_s <= limit_s).sum())
        if not self.shape.num_tokens:
            count = max(1, count)  # an idle target helps nobody
        if count:
            self._decode(rows[:count])
            self.limit_s = limit_s

    def _chunk(self, row: int, min_chunk: int, beside: int = 0) -> None:
        """The largest part of a prompt that fits room and deadlines beside so many drafts, but
        `min_chunk` even if it breaks them."""
        before, held = self._without(row), self.chunks.get(row, 0)
        room = self._max_tokens - self.shape.num_tokens - beside + held
        room = min(int(self._columns.missing[row]), room)
        certain = max(0, held, min(min_chunk, room))
        sizes = range(certain + 1, room + 1)
        chunk = certain + bisect_right(
            sizes, self.limit_s, key=lambda size: self._chunked_s(before, row, size, beside)
        )
        if chunk > 0:
            self.chunks[row] = chunk
            self.shape = self._with_chunk(before, row, chunk)

    def _without(self, row: int) -> StepShape:
        chunk = self.chunks.get(row, 0)
        return self._with_chunk(self.shape, row, chunk, sign=-1) if chunk else self.shape

    def _with_chunk(self, shape: StepShape, row: int, chunk: int, sign: int = 1) -> StepShape:
        columns = self._columns
        length = int(columns.length[row] - columns.missing[row]) + chunk
        product = float(chunk * length) if chunk > 1 else 0.0
        return StepShape(
            shape.num_tokens + sign * chunk,
            shape.num_context + sign * length,
            shape.prefill_product + sign * product,
            shape.num_seats + sign,
        )

    def _chunked_s(self, before: StepShape, row: int, chunk: int, beside: int) -> float:
        return self._upper_s(self._with_chunk(before, row, chunk).with_drafts(beside))

    def _tighten(self, rows: Ints) -> None:
        """The tightest of these deadlines that what is seated now does not break."""
        slack_s = self._slack_s[rows]
        holding = slack_s[self.decodes[rows] & (slack_s >= self._upper_s(self.shape))]
        self.limit_s = min(self.limit_s, float(holding.min(initial=math.inf)))


def free_tokens(curve: Curve, max_tokens: int) -> int:
    """How many sessions can decode in a step that lies on the floor still."""
    limit_s = _FREE * curve.time_s(StepShape(1, 0, 0.0, 1))
    return bisect_right(
        range(1, max_tokens + 1), limit_s, key=lambda n: curve.time_s(StepShape(n, 0, 0.0, n))
    )
