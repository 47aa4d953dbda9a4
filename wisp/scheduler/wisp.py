from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from wisp.core.batch import Batch, Seat
from wisp.core.drafts import Directive
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.core.smoothing import smoothed
from wisp.estimator.base import Estimator
from wisp.estimator.shape import StepShape, shape_of
from wisp.scheduler.admission import retry_after_s
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.columns import Columns
from wisp.scheduler.knapsack import DraftPool
from wisp.scheduler.plan import Plan
from wisp.scheduler.speculation import Load, SpeculationController

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What remains, with every step, of the counts of seats, tokens and committed tokens that admission
# goes by. Chosen: a memory of some 30 steps, a second or so.
_STEPS_KEPT = 0.97
# What remains, with every session that ends, of the counts of prompt and output tokens. Chosen: a
# memory of some 50 sessions.
_SESSIONS_KEPT = 0.98
# Weight of the newest step in the averages of `Load`. Chosen: a memory of some 5 steps, as drafts
# come and go as fast.
_NEW = 0.2
# Share of the time between two tokens of the fastest SLO: while a plain step of all sessions takes
# no more, sessions are decoded without waiting for drafts. Chosen: a fifth leaves room for
# all that plain decoding does not count, such as prompts.
_EAGER = 0.2
# Share of a plain step's time: seats that take more of it beside their tokens are what is scarce.
# Chosen: half, from where on they cost more than all else does.
_HEAVY = 0.5
# Share of the tokens in a step: a plain step of all sessions and of their prompts is to leave as
# many for drafts. Chosen: half, so that each seat has room for a draft.
_PLAIN_SHARE = 0.5


class Wisp(Policy):
    """SLO-aware batches over tokens, and a speculation controller that knows their marginal cost.

    Urgent sessions first, earliest deadline first; then the next token of everybody else (while
    the server has no time to lose, those who wait for drafts join free steps alone); then draft
    tokens as long as they raise (expected committed tokens) / (predicted time); then prefill in the
    room left. Every deadline seated is checked with the estimator's upper quantile; where plain
    decoding cannot hold them all but drafts, cheaper than seats, can, none keeps drafts out.
    """

    def __init__(
        self,
        estimator: Estimator,
        first: Directive,
        *,
        block_tokens: int,
        max_window: int,
        max_step_tokens: int,
    ) -> None:
        super().__init__(estimator)
        self._controller = SpeculationController(first, block_tokens, max_window)
        self._block_tokens = block_tokens
        self._max_step_tokens = max_step_tokens
        # Seats that decoded, their tokens, and those committed, faded.
        self._recent: Floats = np.zeros(3)
        self._num_prefilled = self._num_committed = 0.0  # tokens of ended sessions, faded
        self.load = Load()  # what was learned, and as the last decision saw the server

    @property
    def marginal_cost(self) -> float:
        return self.load.marginal_cost

    def directive(self, session: Session) -> Directive:
        return self._controller.directive(session, self.load)

    def wake_s(self, situation: Situation) -> float | None:
        return situation.now if situation.sessions else None

    def admits(self, sessions: Collection[Session], slo: Slo) -> float | None:
        num_seats, num_tokens, num_committed = np.maximum(self._recent, 1.0).tolist()
        seat = num_tokens / num_seats, max(1.0, num_committed / num_seats)
        return retry_after_s(sessions, slo, self.estimator, *seat, self._prefill_per_token)

    def ended(self, session: Session) -> None:
        self._num_prefilled = _SESSIONS_KEPT * self._num_prefilled + session.num_prefilled
        self._num_committed = _SESSIONS_KEPT * self._num_committed + session.num_output

    @property
    def _prefill_per_token(self) -> float:
        """Prompt tokens computed for each one committed, over the sessions that ended of late."""
        return self._num_prefilled / max(1.0, self._num_committed)

    def observe(
        self, batch: Batch, num_committed: Sequence[int], step_time_s: float, now: float
    ) -> None:
        self._learn_cost(batch)
        super().observe(batch, num_committed, step_time_s, now)
        step_s = smoothed(self.load.step_s or step_time_s, step_time_s, _NEW)
        self.load = self.load._replace(step_s=step_s)
        decodes = [
            (1, seat.num_tokens, number)
            for seat, number in zip(batch.seats, num_committed, strict=True)
            if seat.num_context == 1
        ]
        if decodes:
            self._recent = _STEPS_KEPT * self._recent + np.sum(decodes, axis=0)

    def schedule(self, situation: Situation) -> Batch:
        if not situation.sessions:
            return Batch()
        columns = Columns(situation.sessions, self._block_tokens)
        cumulative = columns.cumulative_acceptance()
        num_open = len(situation.sessions) + situation.num_away
        # Kept for directives alone: the next decision begins with what was learned again.
        load = self.load = self._gauged(columns, cumulative, num_open, self.load)
        plan = Plan(columns, self.estimator, self._max_step_tokens, load, situation.now, cumulative)
        plan.seat_urgent()
        plan.seat_ready()
        if load.scarce:
            plan.lift_limit()
        drafts = DraftPool(cumulative * plan.decodes[:, None])
        num_drafts = plan.best_drafts(drafts)
        if plan.fill_prompts(num_drafts):
            num_drafts = min(num_drafts, plan.best_drafts(drafts))
        batch = _batch(columns, plan, drafts.by_row(num_drafts))
        batch.value = float(plan.decodes.sum() + drafts.value(num_drafts))
        return batch

    def _gauged(self, columns: Columns, cumulative: Floats, count: int, load: Load) -> Load:
        """How far the server is from what plain decoding of everybody can just do.

        Seats are dear if a plain one takes longer than a token does on average, or would with the
        drafts that are here: where nobody's drafts are taken, the average does not show it.
        `count`: of all sessions that are open.
        """
        with_prompts = round(count * (1.0 + self._prefill_per_token))
        context = round(columns.length.mean() * count)
        plain = StepShape(with_prompts, context, 0.0, count)
        curve = self.estimator.curve
        plain_s = curve.time_s(plain)
        use = plain_s / float(columns.period_s.min())
        seat_s = curve.seat_s + curve.context_s * float(columns.length.mean())
        heavy = count * seat_s > _HEAVY * plain_s
        token_s = curve.slope_s(count)
        per_token_s = load.per_token_s or seat_s + token_s
        taken = cumulative > load.marginal_cost
        num_seats, num_drafts = int(taken.any(axis=1).sum()), int(taken.sum())
        if heavy and num_seats:
            offered_s = num_seats * (seat_s + token_s) + num_drafts * token_s
            per_token_s = min(per_token_s, offered_s / (num_seats + float(cumulative[taken].sum())))
        dear = per_token_s < seat_s + token_s
        return load._replace(
            plain_s=plain_s,
            fits=use <= 1.0 and with_prompts < _PLAIN_SHARE * self._max_step_tokens and not dear,
            eager=use <= _EAGER or not dear,
            scarce=use > 1.0 and heavy,
        )

    def _learn_cost(self, batch: Batch) -> None:
        """What a step's time and a draft token of it are worth, by what was expected of it."""
        if batch.value:
            shape, curve, load = shape_of(batch), self.estimator.curve, self.load
            per_token_s = curve.time_s(shape) / batch.value
            marginal_cost = curve.slope_s(shape.num_tokens) / max(per_token_s, 1e-9)
            self.load = load._replace(
                marginal_cost=smoothed(load.marginal_cost, marginal_cost, _NEW),
                per_token_s=smoothed(load.per_token_s or per_token_s, per_token_s, _NEW),
            )


def _batch(columns: Columns, plan: Plan, num_drafts: Ints) -> Batch:
    sessions = columns.sessions
    rows = np.flatnonzero(plan.decodes)
    counts = num_drafts[rows].tolist()
    seats = [
        Seat(session, 1, session.at_hand[:count], session.drafts.source)
        for session, count in zip(map(sessions.__getitem__, rows.tolist()), counts, strict=True)
    ]
    late = plan.urgent & columns.waiting & (columns.buffered == 0)
    for index in np.flatnonzero(late[rows]).tolist():
        seats[index].edge_late = True
    seats += [Seat(sessions[row], chunk) for row, chunk in plan.chunks.items()]
    return Batch(seats)
