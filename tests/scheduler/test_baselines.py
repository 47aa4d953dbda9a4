from __future__ import annotations

import pytest

from tests.scheduler.worlds import exact, make_session
from wisp.core.drafts import REST
from wisp.scheduler.base import Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice


def test_sled_waits_for_a_full_batch_or_the_oldest() -> None:
    policy = make_policy(PolicyChoice(policy="sled", batch_size=2, batch_wait_s=0.05), exact())
    ready = [make_session(n, due_s=9.0, acceptance=[0.9] * 4) for n in range(3)]
    drafting = make_session(9, due_s=9.0)
    alone = [ready[0], drafting]
    assert not policy.schedule(Situation(alone, 0.0))
    assert policy.wake_s(Situation(alone, 0.0)) == pytest.approx(0.05)
    assert len(policy.schedule(Situation(alone, 0.05))) == 1
    assert [seat.session.id for seat in policy.schedule(Situation(ready, 0.0)).seats] == [0, 1]


def test_sled_drafts_a_fixed_length() -> None:
    policy = make_policy(PolicyChoice(policy="sled", block_tokens=4), exact())
    directive = policy.directive(make_session(1, due_s=1.0))
    assert (directive.window, directive.threshold) == (4, 0.0)


def test_sled_gives_a_silent_edge_up_at_its_deadline() -> None:
    policy = make_policy(PolicyChoice(policy="sled", batch_size=1), exact())
    silent = make_session(1, due_s=0.2)
    assert not policy.schedule(Situation([silent], 0.1))
    (seat,) = policy.schedule(Situation([silent], 0.2)).seats
    assert seat.edge_late


def test_centralized_asks_for_no_drafts_and_verifies_none() -> None:
    policy = make_policy(PolicyChoice(policy="centralized"), exact())
    session = make_session(1, due_s=1.0, acceptance=[0.9] * 4)
    assert policy.directive(session) == REST
    assert [seat.num_tokens for seat in policy.schedule(Situation([session], 0.0)).seats] == [1]


def test_the_papers_rule_takes_whole_blocks_by_density() -> None:
    policy = make_policy(PolicyChoice(policy="wisp-paper", max_step_tokens=20), exact())
    sessions = [
        make_session(number, due_s=9.0, acceptance=[p] * 4)
        for number, p in enumerate((0.5, 0.9, 0.2, 0.7, 0.3))
    ]
    seats = policy.schedule(Situation(sessions, 0.0)).seats
    assert [(seat.session.id, seat.num_tokens) for seat in seats] == [
        (1, 5),
        (3, 5),
        (0, 5),
        (4, 5),
    ]


def test_the_papers_rule_holds_the_earliest_deadline() -> None:
    policy = make_policy(PolicyChoice(policy="wisp-paper", max_step_tokens=4096), exact())
    urgent = make_session(0, due_s=0.0085, acceptance=[0.9] * 4)
    others = [make_session(n, due_s=9.0, acceptance=[0.9] * 4) for n in range(1, 200)]
    batch = policy.schedule(Situation([*others, urgent], 0.0))
    assert batch.seats[0].session is urgent
    assert 1 < len(batch) < 100
