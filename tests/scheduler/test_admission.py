"""Who may join, and who has to go for it: never one of equal or higher priority."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scheduler.worlds import exact, make_session
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.scheduler.admission import admission, retry_after_s, until_one_ends_s
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice
from wisp.testing.floor_and_slope import FloorAndSlope

POLICY = make_policy(PolicyChoice(policy="wisp"), exact())


def admits(sessions: Collection[Session], slo: Slo) -> float | None:
    return POLICY.admits(sessions, slo)


def anybody(sessions: Collection[Session], slo: Slo) -> float | None:
    return None


def session(
    number: int, priority: int, *, rate: float = 8.0, due_s: float = 1.0, num_output: int = 1
) -> Session:
    made = make_session(number, due_s=due_s, rate=rate)
    made.slo = Slo(tokens_per_s=rate, first_token_s=1.0, priority=priority)
    made.commit([1] * num_output, 0.0)
    made.due_s = due_s
    return made


def wanting(priority: int, rate: float = 8.0) -> Slo:
    return Slo(tokens_per_s=rate, first_token_s=1.0, priority=priority)


RATES = st.sampled_from([1.0, 8.0, 50.0, 150.0])
SESSIONS = st.lists(
    st.tuples(st.integers(-1, 2), RATES, st.floats(0, 1), st.integers(0, 3)), max_size=20
)


@given(SESSIONS, st.integers(-2, 3), RATES, st.integers(1, 20))
def test_only_lower_priorities_go_and_only_if_that_makes_room(
    rows: list[tuple[int, float, float, int]], priority: int, rate: float, num_slots: int
) -> None:
    sessions = [
        session(number, low, rate=pace, due_s=due_s, num_output=num_output)
        for number, (low, pace, due_s, num_output) in enumerate(rows)
    ]
    slo = wanting(priority, rate)

    def has_room(rest: list[Session]) -> bool:
        return len(rest) < num_slots and admits(rest, slo) is None

    shed, wait_s, reason, _ = admission(sessions, slo, num_slots, admits)
    assert all(victim.slo.priority < priority for victim in shed)
    if has_room(sessions):
        assert (shed, wait_s) == ([], None)
    elif wait_s is None:
        rest = [other for other in sessions if other not in shed]
        assert has_room(rest)
        assert not any(has_room([*rest, victim]) for victim in shed)  # each is needed
    else:
        assert not shed
        assert 0.5 <= wait_s <= 30.0
        assert "try again in" in reason
        lower = [other for other in sessions if other.slo.priority < priority]
        if len(lower) <= 8:
            assert not has_room([other for other in sessions if other not in lower])


def test_the_lowest_priority_goes_first() -> None:
    sessions = [session(1, 1), session(2, -1), session(3, 0)]
    assert [s.id for s in admission(sessions, wanting(2), 3, anybody).shed] == [2]


def test_among_equals_goes_whoever_has_no_text_yet() -> None:
    sessions = [session(1, 0, due_s=9.0), session(2, 0, due_s=0.1, num_output=0)]
    assert [s.id for s in admission(sessions, wanting(1), 2, anybody).shed] == [2]


def test_then_whoevers_next_token_is_due_last() -> None:
    sessions = [session(1, 0, due_s=0.1), session(2, 0, due_s=0.3), session(3, 0, due_s=0.2)]
    assert [s.id for s in admission(sessions, wanting(1), 3, anybody).shed] == [2]


@pytest.mark.parametrize("priority", [0, -1])
def test_nobody_goes_for_an_equal_or_a_lower_one(priority: int) -> None:
    decided = admission([session(1, 0)], wanting(priority), 1, anybody)
    assert decided.shed == []
    assert decided.reason.startswith("all 1 sessions are taken: try again in")


def test_several_small_promises_go_for_a_big_one() -> None:
    def ten_tokens_per_s(sessions: Collection[Session], slo: Slo) -> float | None:
        total = slo.tokens_per_s + sum(session.slo.tokens_per_s for session in sessions)
        return None if total <= 10.0 else 1.0

    rates = [1.0, 2.0, 2.0, 2.0]
    sessions = [session(n, 0, rate=rate, due_s=9.0 - n) for n, rate in enumerate(rates)]
    shed = admission(sessions, wanting(1, 7.0), 100, ten_tokens_per_s).shed
    assert [victim.id for victim in shed] == [1, 2]  # the first would not have helped


def test_one_newcomer_is_not_worth_a_crowd() -> None:
    def never_beside_others(sessions: Collection[Session], slo: Slo) -> float | None:
        return 2.0 if sessions else None

    crowd = [session(number, 0) for number in range(9)]
    assert admission(crowd, wanting(1), 100, never_beside_others)[:2] == ([], 2.0)
    assert len(admission(crowd[:8], wanting(1), 100, never_beside_others).shed) == 8


def test_the_wait_is_until_one_ends_by_its_rate() -> None:
    assert until_one_ends_s([session(1, 0, rate=20.0), session(2, 0)]) == pytest.approx(99 / 20)
    assert until_one_ends_s([session(1, 0, rate=0.1)]) == 30.0
    assert until_one_ends_s([]) == 0.5


def test_a_rate_that_not_even_one_alone_could_have_counts_as_the_most_it_could() -> None:
    """6.5 ms a step at least: 153 tokens a second."""

    def retry(count: int, tokens_per_s: float) -> float | None:
        running = [session(number, 0, rate=1000.0) for number in range(count)]
        return retry_after_s(running, wanting(0, rate=1000.0), exact(), tokens_per_s)

    assert retry(4, 0.0) is None
    assert retry(100, 0.0) is None
    assert retry(400, 0.0) is not None


def test_one_that_writes_more_with_drafts_keeps_no_other_out() -> None:
    """A step of 25 ms is as long for two as for one, and so is each one's share of accepted
    drafts: what one writes in a second is not what the server can."""
    costs = FloorAndSlope(0.025, margin=0.0)
    running = [session(1, 0, rate=60.0)]
    assert retry_after_s(running, wanting(0, rate=60.0), costs, 55.0) is None


def test_a_server_that_writes_more_with_drafts_takes_more_sessions_in() -> None:
    running = [session(number, 0, rate=100.0) for number in range(300)]
    refused, taken = (
        retry_after_s(running, wanting(0, rate=100.0), exact(), tokens_per_s)
        for tokens_per_s in (0.0, 26_000.0)
    )
    assert refused is not None
    assert taken is None
