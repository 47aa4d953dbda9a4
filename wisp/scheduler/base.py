"""Who takes part in the next step, and with how many tokens. Pure: no I/O, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple

from wisp.core.batch import Batch
from wisp.core.drafts import Directive
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.base import Estimator
from wisp.estimator.shape import shape_of


class Situation(NamedTuple):
    """All that a decision on the next step depends on, beside what the policy has learned."""

    sessions: Collection[Session]  # those that can be seated now
    now: float  # seconds, of the same clock as the sessions' times
    num_away: int = 0  # sessions beside these, which a step in flight keeps from being seated
    is_full: bool = False  # others wait for room for their KV, parked or not computed yet


class Policy(ABC):
    """A rule of scheduling. What it learns it learns in `observe` and `ended` alone: a decision
    called again with the same input is the same again."""

    def __init__(self, estimator: Estimator) -> None:
        """`estimator`: every policy teaches it, whether it asks it or not, so that all policies'
        forecasts can be compared."""
        self.estimator = estimator

    @property
    def marginal_cost(self) -> float | None:
        """Of a draft token, in committed tokens: what a directive weighs it by; None: unknown."""
        return None

    @abstractmethod
    def schedule(self, situation: Situation) -> Batch:
        """The batch of the next step; empty when there is nothing to do yet.

        It changes no session. The caller may drop the batch and ask again later.
        """

    def wake_s(self, situation: Situation) -> float | None:
        """When `schedule` would seat somebody if no message came before; None: never.

        On the clock of `situation.now`, whose sessions are here all that are open. At once, unless
        a policy says otherwise.
        """
        return situation.now if situation.sessions else None

    @abstractmethod
    def directive(self, session: Session) -> Directive:
        """What the session's edge is asked to do from now on.

        Asked once when the session opens and once behind each of its verdicts: it may keep in
        `session.edge_stats` when the edge was last switched.
        """

    def observe(
        self,
        batch: Batch,
        num_committed: Sequence[int],
        step_time_s: float,
        now: float,
        drafting_s: float = 0.0,
    ) -> None:
        """Learn from a step, before its outcomes change the sessions.

        `batch`: as `schedule` returned it, or a seat of it that was tried alone. `num_committed`:
        tokens that each seat's outcome holds, in the order of the seats. `step_time_s`: from when
        the target began. `now`: when the outcomes were known. `drafting_s`: the part of it in
        which own drafts were made.
        """
        self.estimator.observe(shape_of(batch), step_time_s - drafting_s)

    def ended(self, session: Session) -> None:
        """It has all its text, or will get no more of it."""
        return

    def admits(self, sessions: Collection[Session], slo: Slo) -> float | None:
        """Whether a session with this SLO may join `sessions`, all that are open.

        None: it may; else in how many seconds it may ask again.
        """
        return None
