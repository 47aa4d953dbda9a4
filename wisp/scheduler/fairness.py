"""Whose turn it is where owners compete for the slots or the time of one server. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from wisp.core.session import Session


def fair_slots(owners: Iterable[str], newcomer: str, num_slots: int) -> float:
    """What each of those who compete may have of the slots; one at least."""
    return max(1.0, num_slots / len({*owners, newcomer}))


def greediest(counts: Counter[str], newcomer: str, num_slots: int) -> str | None:
    """Who must give a slot to the newcomer, when all are taken; None: nobody.

    A slot beyond the fair share is only lent; the newcomer gets one within its own alone.
    """
    fair = fair_slots(counts, newcomer, num_slots)
    owner, count = max(counts.items(), key=lambda each: each[1], default=(newcomer, 0))
    if counts[newcomer] + 1 > fair or count <= fair or owner == newcomer:
        return None
    return owner


def competing(sessions: Collection[Session], newcomer: str, rate: float) -> list[Session]:
    """The sessions whose promises count against one more of the newcomer's at this rate.

    Of an owner with several, those beyond an even part of all promised tokens do not, as long as
    the newcomer's own stay within theirs: nobody can promise himself all the time there is.
    """
    by_owner: dict[str, list[Session]] = defaultdict(list)
    for session in sessions:
        by_owner[session.owner].append(session)
    rates = {owner: sum(s.slo.tokens_per_s for s in mine) for owner, mine in by_owner.items()}
    mine_s = rates.get(newcomer, 0.0) + rate
    even = (sum(rates.values()) + rate) / len({*rates, newcomer})
    if mine_s > even:
        return list(sessions)
    kept: list[Session] = []
    for owner, theirs in by_owner.items():
        theirs.sort(key=lambda session: session.slo.tokens_per_s)
        left = even
        for number, session in enumerate(theirs):
            left -= session.slo.tokens_per_s
            if owner == newcomer or number == 0 or left >= 0.0:
                kept.append(session)
    return kept
