"""The policy `wisp`: whom a step leaves out loses time, whom it holds takes time from all others.

`wisp/scheduler/decision.py` makes that comparison; here is what it is told, and what is learned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wisp.core.batch import Batch
from wisp.core.drafts import Directive
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.core.smoothing import smoothed
from wisp.core.table import Table
from wisp.estimator.base import Estimator
from wisp.estimator.shape import shape_of
from wisp.scheduler.admission import retry_after_s
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.decision import Decision
from wisp.scheduler.guard import Guard
from wisp.scheduler.own import OwnDrafting
from wisp.scheduler.patience import Wait, wait_of
from wisp.scheduler.speculation import LEAST, Load, SpeculationController

# Weight of the newest step in the averages of `Load`. Chosen: a memory of some 5 steps, as drafts
# come and go as fast.
_NEW = 0.2


class Wisp(Policy):
    """Seats by weight, worth and time; drafts by a knapsack; prompts at the pace they need."""

    def __init__(
        self,
        estimator: Estimator,
        first: Directive,
        *,
        block_tokens: int,
        max_window: int,
        max_step_tokens: int,
        max_own: int = 0,
    ) -> None:
        """`max_own`: own drafts of a session, if the server has a drafter."""
        super().__init__(estimator)
        self._controller = SpeculationController(first, block_tokens, max_window)
        self._max_step_tokens = max_step_tokens
        # Learned in `observe` alone.
        self.load = Load()
        self._guard = Guard()
        self._own = OwnDrafting(max_own)

    @property
    def marginal_cost(self) -> float:
        return self.load.marginal_cost

    def directive(self, session: Session) -> Directive:
        return self._controller.directive(session, self.load)

    def wake_s(self, situation: Situation) -> float | None:
        if not situation.sessions:
            return None
        wait = self._wait(situation)
        return situation.now if wait is None else max(situation.now, wait.until_s)

    def _wait(self, situation: Situation) -> Wait | None:
        """For its edge, where there is one session alone."""
        sessions, now = situation.sessions, situation.now
        if len(sessions) != 1 or situation.num_away or self._guard.plain(1, now):
            return None
        (session,) = sessions
        return wait_of(session, self.estimator.curve)

    def observe(
        self,
        batch: Batch,
        num_committed: Sequence[int],
        step_time_s: float,
        now: float,
        drafting_s: float = 0.0,
    ) -> None:
        step_s, cost, tokens_per_s = self.load
        if batch.value:
            shape, curve = shape_of(batch), self.estimator.curve
            value_per_s = batch.value / max(curve.time_s(shape), 1e-9)
            cost = smoothed(cost, curve.slope_s(shape.num_tokens) * value_per_s, _NEW)
        step_s = smoothed(step_s or step_time_s, step_time_s, _NEW)
        rate = sum(num_committed) / max(step_time_s, 1e-9)
        self.load = Load(step_s, cost, smoothed(tokens_per_s, rate, LEAST))
        self._guard.observe(batch, num_committed, step_time_s, now, drafting_s)
        self._own.observe(batch, num_committed, step_time_s, now, drafting_s)
        super().observe(batch, num_committed, step_time_s, now, drafting_s)

    def admits(self, sessions: Collection[Session], slo: Slo) -> float | None:
        return retry_after_s(sessions, slo, self.estimator, self.load.tokens_per_s)

    def schedule(self, situation: Situation) -> Batch:
        if not situation.sessions:
            return Batch()
        wait, now = self._wait(situation), situation.now
        if wait and now < wait.until_s:
            return Batch()
        table = Table(situation.sessions)
        decision = Decision(table, self.estimator, self.load, self._own, situation)
        plain = self._guard.plain(len(table.sessions), now, has_prompts=table.has_prompts)
        batch = decision.batch(self._max_step_tokens, plain=plain)
        for seat in batch.seats if wait and wait.in_vain else ():
            seat.edge_late = True
        return batch
