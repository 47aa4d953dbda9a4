from __future__ import annotations

import pytest

from wisp.core.drafts import Directive, DraftBlock
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.scheduler.base import Situation
from wisp.scheduler.baselines import Fcfs
from wisp.testing.floor_and_slope import FloorAndSlope

DIRECTIVE = Directive(window=4, threshold=0.3)


def make_session(session_id: int, *, has_edge: bool, num_prompt: int = 1) -> Session:
    return Session(
        session_id,
        list(range(num_prompt)),
        Sampling(max_tokens=10, seed=0),
        Slo(tokens_per_s=10, first_token_s=1),
        directive=DIRECTIVE,
        has_edge=has_edge,
    )


def decoding(session_id: int, *, has_edge: bool) -> Session:
    """A session with all its KV but the last token's, whose next token is due at 0.1 s."""
    session = make_session(session_id, has_edge=has_edge)
    session.computed(1)
    session.commit([7], now=0.0)
    return session


def draft(session: Session, *tokens: int, complete: bool = False) -> None:
    position = len(session.tokens)
    acceptance = [0.9] * len(tokens)
    session.offer(DraftBlock(1, position, list(tokens), acceptance, complete=complete), now=0.0)


@pytest.fixture
def policy() -> Fcfs:
    return Fcfs(FloorAndSlope(), DIRECTIVE, block_tokens=2, max_step_tokens=16)


def test_a_session_without_an_edge_is_always_ready(policy: Fcfs) -> None:
    session = decoding(1, has_edge=False)
    assert [seat.num_tokens for seat in policy.schedule(Situation([session], 0.0)).seats] == [1]


def test_a_session_waits_for_its_edge_until_its_token_is_due(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    assert not policy.schedule(Situation([session], 0.05))
    assert policy.wake_s(Situation([session], 0.05)) == pytest.approx(0.1)
    assert len(policy.schedule(Situation([session], 0.1))) == 1


def test_a_late_edge_is_not_waited_for_again(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    session.edge_late = True
    assert len(policy.schedule(Situation([session], 0.0))) == 1
    draft(session, 1)
    assert not policy.schedule(Situation([session], 0.0))


def test_a_window_of_0_is_plain_decoding(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    session.directive = Directive(window=0, threshold=1.0)
    assert len(policy.schedule(Situation([session], 0.0))) == 1


def test_drafts_that_are_worth_a_step_are_verified(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    draft(session, 1)
    assert not policy.schedule(Situation([session], 0.0))
    draft(session, 1, 2, 3)
    assert policy.schedule(Situation([session], 0.0)).seats[0].draft == [1, 2, 3]


def test_a_complete_block_is_verified_however_short(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    draft(session, 1, complete=True)
    assert policy.schedule(Situation([session], 0.0)).seats[0].draft == [1]


def test_the_last_token_is_left_to_the_target(policy: Fcfs) -> None:
    session = decoding(1, has_edge=True)
    session.commit([7] * 7, now=0.0)  # two tokens remain
    session.computed(len(session.tokens) - 1)
    draft(session, 1, 2, 3)
    assert policy.schedule(Situation([session], 0.0)).seats[0].draft == [1]


def test_a_long_prompt_gets_what_verification_leaves(policy: Fcfs) -> None:
    prefilling = make_session(1, has_edge=False, num_prompt=100)
    verifying = decoding(2, has_edge=True)
    draft(verifying, 1, 2)
    batch = policy.schedule(Situation([prefilling, verifying], 0.0))
    assert [(seat.session.id, seat.num_tokens) for seat in batch.seats] == [(2, 3), (1, 13)]
    assert not batch.seats[1].chooses


def test_drafts_are_verified_behind_the_end_of_a_prompt(policy: Fcfs) -> None:
    session = make_session(1, has_edge=True, num_prompt=5)
    draft(session, 1, 2)
    (seat,) = policy.schedule(Situation([session], 0.0)).seats
    assert (seat.num_context, seat.draft, seat.chooses) == (5, [1, 2], True)


def test_the_longest_unserved_goes_first(policy: Fcfs) -> None:
    sessions = [decoding(number, has_edge=False) for number in range(40)]
    for session in sessions:
        session.committed_s = -session.id
    batch = policy.schedule(Situation(sessions, 0.0))
    assert [seat.session.id for seat in batch.seats] == list(range(39, 23, -1))
