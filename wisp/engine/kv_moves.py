"""Whose KV is in the target's memory: asks what should be, and moves it beside the running step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from wisp.core.session import Session
from wisp.engine.messages import KvReport
from wisp.scheduler.residency import Residency, residency
from wisp.verifier.base import Verifier


class KvMoves:
    """Of one engine's sessions, by id: `sessions` is its own dictionary."""

    def __init__(self, verifier: Verifier, sessions: Mapping[int, Session]) -> None:
        self._verifier = verifier
        self._sessions = sessions
        self._planned = Residency(())
        self._planned_s = 0.0
        self.moved = False  # by the last `move`: somebody else may be seated now
        self._num_parked = self._num_loaded = self._num_evicted = 0  # tokens, since the report
        self._num_late = 0  # loads

    def seatable(self, now: float) -> Collection[Session]:
        """Those who may be in a step that is decided on now."""
        return self._decide(now).seatable

    def plan(self, now: float) -> Residency:
        """Who may be in the step that is decided on; what has to be moved is done by `move`."""
        self._planned, self._planned_s = self._decide(now), now
        return self._planned

    def move(self) -> None:
        """What was planned, as far as no step in flight needs it. To be called behind a launch."""
        leaving = [s for s in self._open(self._planned.leaving) if not s.num_in_flight]
        for session, kept in zip(leaving, self._verifier.park(leaving), strict=True):
            self._num_parked += kept
            self._num_evicted += session.num_computed - kept
            session.moved(kept, parked=kept > 0)
        entering = self._open(self._planned.entering)
        for session, found in zip(entering, self._verifier.load(entering), strict=True):
            if found:
                self._num_loaded += found
                self._num_late += session.promised_s < self._planned_s
                session.moved(found, parked=False)
        self.moved = bool(leaving or entering)
        self._planned = Residency(())

    def report(self) -> KvReport:
        """Of now, and of what was moved since the last report."""
        outside = [session for session in self._sessions.values() if not session.resident]
        num_parked = sum(session.parked for session in outside)
        moved = self._num_parked, self._num_loaded, self._num_evicted, self._num_late
        self._num_parked = self._num_loaded = self._num_evicted = self._num_late = 0
        return KvReport(num_parked, len(outside) - num_parked, *moved)

    def _decide(self, now: float) -> Residency:
        for session in self._verifier.evicted():
            if not session.num_in_flight:  # else its outcome tells
                self._num_evicted += session.num_computed
                session.moved(0, parked=False)
        return residency(self._sessions.values(), self._verifier.memory(), now)

    def _open(self, sessions: Collection[Session]) -> Sequence[Session]:
        return [each for each in sessions if self._sessions.get(each.id) is each]
