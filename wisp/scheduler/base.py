"""Who takes part in the next step, and with how many tokens. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from wisp.core.batch import Batch
from wisp.core.drafts import Directive
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.base import Estimator
from wisp.estimator.shape import shape_of


class Policy(Protocol):
    estimator: Estimator | None = None  # every policy teaches it, so that they can be compared
    num_away: int = 0  # sessions of an in-flight step, which `schedule` is not shown: none is free
    decodes_on: bool = False  # it is shown those that may have drafts, too, and seats them plainly
    ahead: float = 0.0  # share of late of steps launched while another ran: who had drafts sits out

    @property
    def marginal_cost(self) -> float | None:
        """Of a draft token, in committed tokens: what a directive weighs it by; None: unknown."""
        return None

    def schedule(self, sessions: Collection[Session], now: float) -> Batch:
        """The batch of the next step; empty when there is nothing to do yet."""

    def wake_s(self, sessions: Collection[Session], now: float) -> float | None:
        """When `schedule` would seat somebody if no message came before; None: never."""

    def directive(self, session: Session) -> Directive:
        """What the session's edge is asked to do from now on."""

    def observe(
        self, batch: Batch, num_committed: Sequence[int], step_time_s: float, now: float
    ) -> None:
        """Learn from a step, before its outcomes change the sessions.

        `num_committed`: tokens that each seat's outcome holds.
        """
        if self.estimator is not None:
            self.estimator.observe(shape_of(batch), step_time_s)

    def ended(self, session: Session) -> None:
        """It has all its text, or will get no more of it."""
        return

    def admits(self, sessions: Collection[Session], slo: Slo, now: float) -> float | None:
        """None: a session with this SLO may join; else in how many seconds it may ask again."""
        return None
