"""Properties of one decision, over random loads."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.worlds import Tiled, exact, make_session, value
from wisp.core.batch import Batch, Seat
from wisp.core.session import Session
from wisp.estimator.base import Estimator
from wisp.estimator.shape import StepShape, shape_of
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.base import Policy, Situation
from wisp.scheduler.plan import free_tokens
from wisp.scheduler.policy import make_policy
from wisp.scheduler.speculation import Load
from wisp.scheduler.tuning import PolicyChoice
from wisp.scheduler.wisp import Wisp
from wisp.testing.floor_and_slope import FloorAndSlope

ESTIMATORS: list[Callable[[], Estimator]] = [exact, Tiled, StepTimeEstimator]
MAX_STEP_TOKENS = 512
EARLY_S = 1 / 8  # a period of the sessions


def dear_seats() -> FloorAndSlope:
    """Reading a session's KV costs more than a token."""
    return FloorAndSlope(context_s=1e-6, margin=0.0)


@st.composite
def loads(draw: st.DrawFn, prefill: bool = False) -> list[Session]:
    chance = random.Random(draw(st.integers(0, 2**32)))  # far faster than drawing each number
    tightest = draw(st.sampled_from([-0.05, 0.0, 0.02, 0.1]))
    found = []
    for number in range(draw(st.integers(1, 120))):
        length = chance.randrange(2, 400)
        found.append(
            make_session(
                number,
                due_s=chance.uniform(tightest, 0.4),
                length=length,
                acceptance=[chance.random() for _ in range(chance.randrange(9))],
                has_edge=chance.random() < 0.7,
                missing=length if prefill and chance.random() < 0.2 else 1,
                complete=chance.random() < 0.5,
            )
        )
    return found


def schedule(sessions: list[Session], costs: Estimator, *, known: bool = False) -> Batch:
    """`known`: a step before has told how much of a step's time a token takes."""
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=MAX_STEP_TOKENS), costs)
    if known:
        take_step(policy, Situation(sessions, 0.0))
    return policy.schedule(Situation(sessions, 0.0))


def take_step(policy: Policy, situation: Situation) -> list[Seat]:
    """Its seats; the policy learns from it, and the sessions stay as they are."""
    batch = policy.schedule(situation)
    time_s = policy.estimator.predict_s(shape_of(batch))
    policy.observe(batch, [1] * len(batch), time_s, situation.now)
    return batch.seats


def ready(session: Session) -> bool:
    drafts_here = session.edge_resting or len(session.buffer) >= 4
    return session.decoding and (drafts_here or not session.waits_for_edge)


def plain(seats: list[Seat]) -> Batch:
    return Batch([Seat(seat.session, seat.num_context) for seat in seats])


@pytest.mark.parametrize("costs", ESTIMATORS)
@settings(deadline=None, max_examples=60)
@given(loads(prefill=True))
def test_a_batch_is_well_formed(costs: Callable[[], Estimator], sessions: list[Session]) -> None:
    batch = schedule(sessions, costs())
    assert batch
    assert batch.num_tokens <= MAX_STEP_TOKENS
    assert len({seat.session.id for seat in batch.seats}) == len(batch)
    for seat in batch.seats:
        assert 0 < seat.num_context <= seat.session.num_missing
        assert seat.draft == seat.session.buffer[: len(seat.draft)]
        assert len(seat.draft) < seat.session.num_remaining


@pytest.mark.parametrize("costs", ESTIMATORS)
@settings(deadline=None, max_examples=100)
@given(loads(prefill=True))
def test_no_seat_breaks_a_deadline_that_the_urgent_alone_would_hold(
    costs: Callable[[], Estimator], sessions: list[Session]
) -> None:
    truth = costs()
    batch = schedule(sessions, truth)
    total_s = truth.upper_s(shape_of(batch))
    horizon_s = 2 * truth.upper_s(shape_of(Batch([Seat(s, 1) for s in sessions if ready(s)])))
    urgent = [
        Seat(seat.session, min(16, seat.num_context))  # a late prompt's least chunk is 16
        for seat in batch.seats
        if seat.num_context > 1 or seat.session.aimed_s < horizon_s + EARLY_S
    ]
    plain = StepShape(len(sessions), sum(len(s.tokens) for s in sessions), 0.0, len(sessions))
    if truth.predict_s(plain) * max(s.slo.tokens_per_s for s in sessions) <= 1.0:
        # There is time for all, and nobody is left out for another's sake.
        urgent = [Seat(seat.session, min(16, seat.num_context)) for seat in batch.seats]
    urgent_s = truth.upper_s(shape_of(Batch(urgent)))
    for seat in batch.seats:
        if seat.session.decoding and seat.session.aimed_s >= urgent_s:
            assert total_s <= seat.session.aimed_s + 1e-9


@pytest.mark.parametrize("costs", ESTIMATORS)
@settings(deadline=None, max_examples=100)
@given(loads())
def test_a_batch_is_worth_no_less_than_plain_decoding_of_the_same(
    costs: Callable[[], Estimator], sessions: list[Session]
) -> None:
    truth = costs()
    batch = schedule(sessions, truth)
    alone = plain(batch.seats)
    rate = value(batch) / truth.predict_s(shape_of(batch))
    assert rate >= 0.98 * len(alone) / truth.predict_s(shape_of(alone))


@settings(deadline=None, max_examples=60)
@given(loads())
def test_whoever_is_late_is_seated_first(sessions: list[Session]) -> None:
    for session in sessions:
        session.aimed_s -= 0.2
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=32), exact())
    seated = {seat.session.id for seat in policy.schedule(Situation(sessions, 0.0)).seats}
    late = sorted((s for s in sessions if s.aimed_s <= 0), key=lambda s: s.aimed_s)
    assert {session.id for session in late[:32]} <= seated


def test_drafts_are_free_on_the_floor_and_priced_above_it() -> None:
    few = [make_session(n, due_s=1.0, acceptance=[0.3] * 4) for n in range(8)]
    many = [make_session(n, due_s=1.0, acceptance=[0.3] * 4) for n in range(400)]
    assert schedule(few, exact()).num_tokens == 8 * 5
    assert schedule(many, exact()).num_tokens == 400
    likely = [make_session(n, due_s=1.0, acceptance=[0.99] * 4) for n in range(100)]
    assert schedule(likely, exact()).num_tokens == 500


def test_drafts_behind_drafts_in_flight_are_worth_what_all_of_them_are() -> None:
    sessions = [make_session(n, due_s=1.0, acceptance=[p] * 5) for n, p in enumerate((0.4, 0.9))]
    for session in sessions:
        session.launched(2, 2)
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=4), exact())
    seats = policy.schedule(Situation(sessions, 0.0)).seats
    assert {seat.session.id: len(seat.draft) for seat in seats} == {0: 0, 1: 2}
    (draft,) = (seat.draft for seat in seats if seat.draft)
    assert draft == sessions[1].drafts.tokens[2:4]


def test_the_likeliest_drafts_are_taken_first() -> None:
    sessions = [make_session(n, due_s=1.0, acceptance=[p] * 4) for n, p in enumerate((0.4, 0.9))]
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=6), exact())
    seats = policy.schedule(Situation(sessions, 0.0)).seats
    assert {seat.session.id: len(seat.draft) for seat in seats} == {0: 0, 1: 4}


@pytest.mark.parametrize("rate", [2.0, 100.0])
def test_who_waits_for_an_edge_joins_any_step_or_where_time_is_scarce_a_free_one(
    rate: float,
) -> None:
    waiting = [make_session(n, due_s=1.0, rate=rate) for n in range(4)]
    assert len(schedule(waiting, dear_seats())) == 4
    drafts = [0.99] * 4  # each of which brings a token for less time than a seat takes
    full = [make_session(n, due_s=1.0, rate=rate, acceptance=drafts) for n in range(10, 110)]
    batch = schedule([*waiting, *full], dear_seats(), known=True)
    with_edge = sum(seat.session in waiting for seat in batch.seats)
    assert with_edge == (4 if rate < 10 else 0)
    assert len(batch) == 100 + with_edge


def test_where_seats_are_dear_the_longest_are_seated_with_all_their_drafts() -> None:
    def session(number: int, due_s: float) -> Session:
        drafts = [0.99] * 4
        return make_session(number, due_s=due_s, rate=100.0, length=number, acceptance=drafts)

    late = {n: session(n, -1.0) for n in range(10, 14)}
    others = {n: session(n, 1.0) for n in range(100, 300)}
    batch = schedule([*others.values(), *late.values()], dear_seats(), known=True)
    room = MAX_STEP_TOKENS // 5
    assert all(len(seat.draft) == 4 for seat in batch.seats)
    assert {seat.session.id for seat in batch.seats} == {*late, *range(300 - room + 4, 300)}


@pytest.mark.parametrize("acceptance", [0.99, 0.01])
def test_seats_are_dear_if_the_drafts_here_save_some(acceptance: float) -> None:
    """Even after steps without drafts, whose average says that a token takes a seat."""
    policy = make_policy(PolicyChoice(policy="wisp"), dear_seats())
    assert isinstance(policy, Wisp)
    policy.load = Load(per_token_s=1.0)
    drafts = [acceptance] * 4
    policy.schedule(
        Situation([make_session(n, due_s=1.0, acceptance=drafts) for n in range(100)], 0.0)
    )
    assert policy.load.fits == (acceptance < 0.5)


def test_a_prompt_gets_the_room_that_is_left() -> None:
    prompt = make_session(1, due_s=1.0, length=1000, missing=1000)
    others = [make_session(n, due_s=1.0, has_edge=False) for n in range(2, 12)]
    batch = schedule([prompt, *others], exact())
    assert {seat.session.id: seat.num_tokens for seat in batch.seats}[1] == MAX_STEP_TOKENS - 10


def test_seats_are_not_free_where_they_cost() -> None:
    free = free_tokens(StepTimeEstimator().curve, MAX_STEP_TOKENS)
    assert 32 <= free < 64  # 20 us each; 128 tokens of few seats would still lie on the floor


def crowd() -> list[Session]:
    """More than plain decoding can serve, and all a second late: half have drafts here, half an
    edge that takes 30 ms and was answered 5 ms ago."""
    with_drafts, waiting = (
        [
            make_session(n, due_s=-1.0, rate=200.0, acceptance=drafts)
            for n in range(first, first + 100)
        ]
        for first, drafts in ((0, [0.99] * 4), (100, None))
    )
    for session in waiting:
        session.edge_stats.draft_time_s, session.edge_stats.round_trip_s = 0.005, 0.01
        session.committed_s = -0.005
    return with_drafts + waiting


def test_in_overload_late_sessions_wait_for_drafts_that_are_in_time() -> None:
    seats = schedule(crowd(), dear_seats(), known=True).seats
    assert {seat.session.id for seat in seats} == set(range(100))
    assert all(len(seat.draft) == 4 for seat in seats)


def test_in_overload_a_late_edge_is_waited_for_no_longer() -> None:
    sessions = crowd()
    for session in sessions:
        session.committed_s = -0.011  # two periods
    late = {
        seat.session.id
        for seat in schedule(sessions, dear_seats(), known=True).seats
        if seat.edge_late
    }
    assert late == set(range(100, 200))


def test_in_overload_no_deadline_takes_drafts_out_of_a_step() -> None:
    tight = [make_session(n, due_s=0.01, rate=200.0, has_edge=False) for n in range(200, 280)]
    batch = schedule(crowd()[:100] + tight, dear_seats(), known=True)
    assert len(batch) == 180
    assert batch.num_tokens == MAX_STEP_TOKENS
