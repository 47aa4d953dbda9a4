"""May another session join without breaking the promises made to the others?

If not, sessions of a lower priority may have to go. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.base import Estimator
from wisp.estimator.shape import StepShape
from wisp.scheduler.fairness import competing, fair_slots, greediest

# Share of the time that may be promised. Chosen: more than all of it, as a session refused is a
# promise broken for certain, and a prediction may err.
_USABLE = 1.2
# The least that a client is told to wait. Chosen: asking more often than twice a second is a load
# of its own.
_MIN_WAIT_S = 0.5
# The most that a client is told to wait. Chosen: nobody knows the load of half a minute from now.
_MAX_WAIT_S = 30.0
# Sessions of lower priority that may be ended for one of higher priority. Chosen: more broken
# promises than that are worth no new one.
_MAX_SHED = 8

Admits = Callable[[Collection[Session], Slo], float | None]  # as Policy.admits


class Admission(NamedTuple):
    """Of a session that would join: it may unless `wait_s` says when to ask again."""

    shed: list[Session]  # to be ended first; each of them is needed
    wait_s: float | None = None
    reason: str = ""  # why it must wait
    shed_for: str = "a higher priority"


def admission(
    sessions: Collection[Session], slo: Slo, num_slots: int, admits: Admits, owner: str = ""
) -> Admission:
    """Room is made at the cost of lower priorities, the lowest first.

    Among equals those go who can best wait: first whoever has no text yet (to try again costs them
    nothing), then whoever's next token is due last. Nobody goes if that would not make room.

    Between owners, no priority takes more than its owner's fair share from others, and who has more
    than that gives slots and time back to those who have less.
    """
    of_all, admits = admits, _fairly(admits, owner)
    refusal = _refusal(sessions, slo, num_slots, admits)
    if refusal is None:
        given_back = _lent_time(sessions, slo, of_all, owner)
        return Admission(given_back, shed_for="others, whose part of the time it had")
    counts = Counter(session.owner for session in sessions)
    may_take = counts[owner] + 1 <= fair_slots(counts, owner, num_slots)
    lower = [
        session
        for session in sessions
        if session.slo.priority < slo.priority and (may_take or session.owner == owner)
    ]
    lower.sort(key=_can_wait)
    if len(sessions) >= num_slots and (greedy := greediest(counts, owner, num_slots)) is not None:
        lent = min((s for s in sessions if s.owner == greedy), key=_can_wait)
        if _refusal(_without(sessions, [lent]), slo, num_slots, admits) is None:
            return Admission([lent], shed_for="others, as all slots were taken")
    for count in range(1, min(len(lower), _MAX_SHED) + 1):
        if _refusal(_without(sessions, lower[:count]), slo, num_slots, admits) is None:
            return Admission(_needed(lower[:count], sessions, slo, num_slots, admits))
    return refusal


def _lent_time(
    sessions: Collection[Session], slo: Slo, admits: Admits, owner: str
) -> list[Session]:
    """Sessions beyond their owners' even part of the time, until all promises can be kept."""
    if admits(sessions, slo) is None:
        return []
    kept = {session.id for session in competing(sessions, owner, slo.tokens_per_s)}
    lent = sorted((each for each in sessions if each.id not in kept), key=_can_wait)
    for count in range(1, min(len(lent), _MAX_SHED) + 1):
        if admits(_without(sessions, lent[:count]), slo) is None:
            return lent[:count]
    return []


def _can_wait(session: Session) -> tuple[int, bool, float]:
    """Whoever should go first is least."""
    return session.slo.priority, session.num_output > 0, -session.due_s


def _fairly(admits: Admits, owner: str) -> Admits:
    """By the promises of others that may stand in this owner's way."""

    def fairly(sessions: Collection[Session], slo: Slo) -> float | None:
        return admits(competing(sessions, owner, slo.tokens_per_s), slo)

    return fairly


def until_one_ends_s(sessions: Collection[Session]) -> float:
    """By its rate; within what is sensible to tell a client."""
    wait_s = min((s.num_remaining / s.slo.tokens_per_s for s in sessions), default=0.0)
    return min(_MAX_WAIT_S, max(_MIN_WAIT_S, wait_s))


def _refusal(
    sessions: Collection[Session], slo: Slo, num_slots: int, admits: Admits
) -> Admission | None:
    if len(sessions) >= num_slots:
        wait_s = until_one_ends_s(sessions)
        reason = f"all {num_slots} sessions are taken: try again in {wait_s:.1f} s"
        return Admission([], wait_s, reason)
    asked_s = admits(sessions, slo)
    if asked_s is None:
        return None
    reason = (
        f"another session at {slo.tokens_per_s:g} tokens/s would slow the {len(sessions)} running "
        f"ones below what they were promised: try again in {asked_s:.1f} s"
    )
    return Admission([], asked_s, reason)


def _needed(
    shed: list[Session], sessions: Collection[Session], slo: Slo, num_slots: int, admits: Admits
) -> list[Session]:
    """Spare whom the others make superfluous, the most important first."""
    for session in reversed(shed):
        fewer = [other for other in shed if other is not session]
        if _refusal(_without(sessions, fewer), slo, num_slots, admits) is None:
            shed = fewer
    return shed


def _without(sessions: Collection[Session], gone: list[Session]) -> list[Session]:
    ids = {session.id for session in gone}
    return [session for session in sessions if session.id not in ids]


def retry_after_s(
    sessions: Collection[Session], slo: Slo, estimator: Estimator, tokens_per_s: float
) -> float | None:
    """None: it may join; else how long until, by its rate, a session will have ended.

    All promised tokens of a second must be written in it: as many are as steps lately committed,
    `tokens_per_s`, or as plain steps of all who have room at once would, if that is more. A rate
    that no session could have in plain steps, even alone, counts as the most that it could. Where
    drafts bring all of them more than that, what they write is no limit of the server.
    """
    max_rate = 1.0 / max(estimator.predict_s(StepShape(1, 0, 0.0, 1)), 1e-9)
    if tokens_per_s >= max_rate * len(sessions):
        return None
    promised = sum(min(max_rate, each.tokens_per_s) for each in (slo, *(s.slo for s in sessions)))
    is_full = any(session.parked for session in sessions)
    at_once = [len(each.tokens) for each in sessions if each.resident or not is_full]
    count, context = len(at_once) + 1, sum(at_once)
    plain_s = estimator.predict_s(StepShape(count, context, 0.0, count))
    # By what is expected: a rate is kept over many steps, not in each.
    if promised <= _USABLE * max(tokens_per_s, count / max(plain_s, 1e-9)):
        return None
    return until_one_ends_s(sessions)
