"""A target that has one session alone waits for a fast edge near by, and for no other."""

from __future__ import annotations

import pytest

from tests.scheduler.worlds import make_session
from wisp.core.drafts import DraftBlock
from wisp.core.session import Session
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice
from wisp.testing.floor_and_slope import FloorAndSlope

STEP_S = 0.05


def session_of(draft_s: float | None, away_s: float, acceptance: list[float] | None) -> Session:
    """Its last verdict, or the last of its drafts, is of time 0."""
    found = make_session(0, due_s=3.0, acceptance=acceptance, complete=False)
    found.edge_stats.draft_time_s, found.edge_stats.round_trip_s = draft_s, away_s
    return found


@pytest.fixture
def policy() -> Policy:
    costs = FloorAndSlope(floor_s=STEP_S, context_s=0.0, margin=0.0)
    return make_policy(PolicyChoice(policy="wisp"), costs)


@pytest.mark.parametrize(
    ("draft_s", "away_s", "acceptance", "waits"),
    [
        (0.004, 0.002, None, True),
        (0.004, 0.030, None, False),  # a far edge drafts while the target goes on
        (0.030, 0.002, None, False),  # so does a slow one
        (None, 0.002, None, False),  # nothing is known of it
        (0.004, 0.002, [0.9, 0.9], True),
        (0.004, 0.002, [0.3, 0.3], False),  # the next one would hardly be accepted
    ],
)
def test_a_fast_edge_near_by_is_waited_for(
    policy: Policy,
    draft_s: float | None,
    away_s: float,
    acceptance: list[float] | None,
    waits: bool,
) -> None:
    situation = Situation([session_of(draft_s, away_s, acceptance)], 0.0)
    assert (len(policy.schedule(situation)) == 0) == waits
    wake_s = policy.wake_s(situation)
    assert wake_s is not None
    assert (0.0 < wake_s < STEP_S) == waits


def test_in_vain_it_is_waited_for_once(policy: Policy) -> None:
    """Law 2: a dead edge costs its own user some speed."""
    session = session_of(0.004, 0.002, None)
    wake_s = policy.wake_s(Situation([session], 0.0))
    assert wake_s is not None
    (seat,) = policy.schedule(Situation([session], wake_s)).seats
    assert seat.edge_late
    session.verified(seat.source, 0, [7], wake_s + STEP_S, edge_late=seat.edge_late)
    session.computed(100)
    after = Situation([session], session.committed_s)
    assert len(policy.schedule(after)) == 1
    assert policy.wake_s(after) == after.now
    session.offer(DraftBlock(1, len(session.tokens), [1], [0.9]), after.now)  # it is back
    assert len(policy.schedule(after)) == 0


def test_beside_others_nobody_is_waited_for_where_seats_are_cheap(policy: Policy) -> None:
    waiting = session_of(0.004, 0.002, None)
    other = make_session(1, due_s=3.0, has_edge=False)
    assert len(policy.schedule(Situation([waiting, other], 0.0))) == 2
    # Another is in a step that is under way.
    assert len(policy.schedule(Situation([waiting], 0.0, num_away=1))) == 1


def test_an_edge_that_rests_is_not_waited_for(policy: Policy) -> None:
    session = session_of(0.004, 0.002, None)
    session.offer(DraftBlock(1, 100, [1, 2], [0.9, 0.9], complete=True), 0.0)
    (seat,) = policy.schedule(Situation([session], 0.0)).seats
    assert len(seat.draft) == 2
    assert not seat.edge_late
