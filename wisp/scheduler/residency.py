"""Whose KV is in the target's memory: those whose next tokens are wanted first. Pure.

A session that is served in every step writes faster than its reader reads, and is ahead of it soon.
Then its KV may wait in host memory, and that of another takes its place, until it is wanted again:
so many more sessions are served at their rates than have room at once.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from wisp.core.kv_memory import KvMemory
from wisp.core.session import Session

# A session leaves only for one that has so much less time. Chosen: by the rows of
# docs/measurements/parking.md; with less they take turns more often than the copies are worth.
_SOONER_S = 1.0

# Who has got nothing for so long comes first, however late it is. Chosen: the longest that a user
# should wait for a sign of life when more was promised than can be kept.
_STARVED_S = 10.0


class Residency(NamedTuple):
    """Who may be seated in the step that is decided on, and what is moved beside it."""

    seatable: Collection[Session]
    leaving: Collection[Session] = ()  # their KV makes room; parked as soon as no step needs it
    entering: Collection[Session] = ()  # parked ones, to be loaded as soon as there is room
    is_full: bool = False  # not everybody can be seated


def residency(sessions: Collection[Session], memory: KvMemory | None, now: float) -> Residency:
    """`sessions`: all that are open. `memory`: None where there is room for all of them."""
    if memory is None:
        return Residency(sessions)
    outside = [session for session in sessions if not session.resident]
    if not outside:
        return Residency(sessions)
    time_s = partial(_time_s, now=now)
    inside = [session for session in sessions if session.resident]
    room = memory.num_free - sum(map(memory.num_wanted, inside))
    outside.sort(key=time_s)
    victims = sorted((each for each in inside if each.decoding), key=time_s)
    entering: list[Session] = []
    let_in: list[Session] = []  # that hold no KV
    leaving: list[Session] = []
    num_parkable = memory.num_parkable
    for session in outside:  # no other overtakes the first one that does not fit
        wanted = memory.num_wanted(session)
        chosen: list[Session] = []
        limit_s = time_s(session) + _SOONER_S
        while room < wanted and victims and time_s(victims[-1]) > limit_s:
            victim = victims.pop()
            num_parkable -= memory.num_to_park(victim)
            if num_parkable < 0:
                break
            chosen.append(victim)
            room += memory.num_held(victim) + memory.num_wanted(victim)
        if room < wanted and (inside or let_in or entering):
            break
        room -= wanted
        leaving += chosen
        if session.parked:
            entering.append(session)
        elif not leaving:  # else there is room for it when those have left
            let_in.append(session)
    gone = {session.id for session in leaving}
    staying = [session for session in inside if session.id not in gone]
    return Residency(staying + let_in, leaving, entering, is_full=len(outside) > len(let_in))


def _time_s(session: Session, now: float) -> float:
    """That it has until its next token is wanted.

    Of those that are late already the latest comes last: where more was promised than can be kept,
    a promise that is broken anyway should not break others.
    """
    if now - session.committed_s > _STARVED_S:
        return 0.0
    return abs(session.aimed_s - now)
