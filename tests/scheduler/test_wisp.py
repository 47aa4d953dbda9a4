"""Properties of one decision, over random loads."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.worlds import Tiled, exact, make_session, value
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import REST
from wisp.core.session import Session
from wisp.estimator.base import Estimator
from wisp.estimator.curve import Curve
from wisp.estimator.shape import shape_of
from wisp.estimator.step_time import StepTimeEstimator
from wisp.scheduler.base import Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.tuning import PolicyChoice
from wisp.testing.floor_and_slope import FloorAndSlope

ESTIMATORS: list[Callable[[], Estimator]] = [exact, Tiled, StepTimeEstimator]
MAX_STEP_TOKENS = 512


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


def schedule(sessions: list[Session], costs: Estimator, *, is_full: bool = False) -> Batch:
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=MAX_STEP_TOKENS), costs)
    return policy.schedule(Situation(sessions, 0.0, is_full=is_full))


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
@given(loads())
def test_a_batch_is_worth_no_less_than_plain_decoding_of_the_same(
    costs: Callable[[], Estimator], sessions: list[Session]
) -> None:
    truth = costs()
    batch = schedule(sessions, truth)
    alone = plain(batch.seats)
    rate = value(batch) / truth.predict_s(shape_of(batch))
    assert rate >= 0.98 * len(alone) / truth.predict_s(shape_of(alone))


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 100))
def test_whoever_is_late_goes_before_whoever_has_time(num_late: int, num_others: int) -> None:
    late = [make_session(n, due_s=-1.0, has_edge=False) for n in range(num_late)]
    others = [make_session(n, due_s=3.0, has_edge=False) for n in range(200, 200 + num_others)]
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=32), exact())
    seats = policy.schedule(Situation([*others, *late], 0.0)).seats
    assert len(seats) == min(32, num_late + num_others)
    assert sum(seat.session in late for seat in seats) == min(32, num_late)


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


def drafting(number: int, *, acceptance: list[float] | None, draft_s: float = 0.01) -> Session:
    """Its edge is 10 ms away, and was answered at 0."""
    session = make_session(number, due_s=3.0, acceptance=acceptance, complete=False)
    session.edge_stats.draft_time_s, session.edge_stats.round_trip_s = draft_s, 0.01
    return session


def dear_seats() -> FloorAndSlope:
    """No floor, and 3 ms for each session."""
    return FloorAndSlope(floor_s=0.0, context_s=3e-5, margin=0.0)


def test_where_seats_are_dear_a_session_is_left_to_its_edge() -> None:
    waiting = [drafting(n, acceptance=None) for n in range(20)]
    ready = [make_session(n, due_s=3.0, acceptance=[0.9] * 4) for n in range(20, 40)]
    seats = schedule([*waiting, *ready], dear_seats()).seats
    assert {seat.session.id for seat in seats} == set(range(20, 40))


def test_one_left_out_for_long_goes_first_and_leaves_nobody_out() -> None:
    starved = make_session(0, due_s=-1.0, has_edge=False)
    starved.committed_s = -60.0
    others = [make_session(n, due_s=3.0, has_edge=False) for n in range(1, 200)]
    costs = FloorAndSlope(token_s=5e-5)
    assert len(schedule([*others, starved], costs)) == 200
    policy = make_policy(PolicyChoice(policy="wisp", max_step_tokens=1), costs)
    (seat,) = policy.schedule(Situation([*others, starved], 0.0)).seats
    assert seat.session is starved


def test_in_a_full_memory_nobody_is_left_to_its_edge() -> None:
    waiting = [drafting(n, acceptance=[0.99] * 4) for n in range(20)]
    for session in waiting:
        session.edge_stats.acceptance.accepted = session.edge_stats.acceptance.examined
    ready = [make_session(n, due_s=3.0, acceptance=[0.99] * 4) for n in range(20, 40)]
    costs = FloorAndSlope(floor_s=0.02, context_s=2e-6)
    assert len(schedule([*waiting, *ready], costs)) == 20
    assert len(schedule([*waiting, *ready], costs, is_full=True)) == 40


def test_in_a_full_memory_prompts_that_are_late_are_computed_at_once() -> None:
    def num_prompt_tokens(*, is_full: bool) -> int:
        late = [make_session(n, due_s=-9.0, length=200, missing=200) for n in range(2)]
        others = [make_session(n, due_s=3.0, has_edge=False) for n in range(20, 40)]
        return schedule([*late, *others], exact(), is_full=is_full).num_tokens - len(others)

    assert num_prompt_tokens(is_full=True) == 400
    assert num_prompt_tokens(is_full=False) < 200


@pytest.mark.parametrize("reason", ["seats cost little", "nobody else is there", "the edge rests"])
def test_else_it_is_decoded_at_once(reason: str) -> None:
    waiting = [drafting(0, acceptance=None, draft_s=0.1)]
    ready = [make_session(n, due_s=3.0, has_edge=False) for n in range(20, 40)]
    costs = exact() if reason == "seats cost little" else dear_seats()
    if reason == "nobody else is there":
        ready = []
    if reason == "the edge rests":
        waiting[0].directive = REST
    seats = schedule([*waiting, *ready], costs).seats
    assert {seat.session.id for seat in seats} == {s.id for s in [*waiting, *ready]}


def test_an_edge_that_is_overdue_is_waited_for_ever_less() -> None:
    """Law 2: a dead edge costs its own user some speed."""
    ready = [make_session(n, due_s=3.0, has_edge=False) for n in range(20, 40)]
    dead = drafting(0, acceptance=None)
    policy = make_policy(PolicyChoice(policy="wisp"), dear_seats())

    def seated(now: float) -> bool:
        batch = policy.schedule(Situation([dead, *ready], now))
        return any(seat.session is dead for seat in batch.seats)

    assert [seated(now) for now in (0.0, 0.02, 5.0)] == [False, False, True]


def test_who_is_about_to_be_late_waits_less() -> None:
    def seated(due_s: float) -> bool:
        ready = [make_session(n, due_s=3.0, acceptance=[0.9] * 4) for n in range(20, 30)]
        session = drafting(0, acceptance=[0.7], draft_s=0.03)
        session.aimed_s = due_s
        seats = schedule([session, *ready], dear_seats()).seats
        return any(seat.session is session for seat in seats)

    assert (seated(3.0), seated(-1.0)) == (False, True)


def test_prompts_are_computed_at_the_pace_that_they_need() -> None:
    def chunk(due_s: float) -> int:
        prompt = make_session(1, due_s=due_s, length=2000, missing=2000)
        others = [make_session(n, due_s=1.0, has_edge=False) for n in range(2, 100)]
        batch = schedule([prompt, *others], exact())
        return sum(seat.num_tokens for seat in batch.seats if seat.session is prompt)

    assert 1 <= chunk(10.0) < chunk(0.5) < chunk(0.1)
    assert chunk(-1.0) >= 1  # it is late, and comes through all the same


def test_prompts_that_fill_a_step_leave_a_token_to_each_who_decodes() -> None:
    prompts = [make_session(n, due_s=0.5, length=16_000, missing=16_000) for n in range(4)]
    others = [make_session(10 + n, due_s=0.05, has_edge=False) for n in range(20)]
    batch = schedule([*prompts, *others], exact())
    assert {seat.session.id for seat in batch.seats} >= {other.id for other in others}
    assert batch.num_tokens == MAX_STEP_TOKENS


def test_who_can_be_in_time_goes_before_who_is_late_anyway() -> None:
    late, in_time = (
        make_session(n, due_s=due_s, length=1000, missing=1000)
        for n, due_s in enumerate((-1.0, 0.2))
    )
    chunks = {s.session.id: s.num_tokens for s in schedule([late, in_time], exact()).seats}
    assert chunks[1] > 2 * chunks.get(0, 0)


def test_a_prompt_has_the_whole_step_where_nobody_decodes() -> None:
    for due_s in (10.0, 1.0, -1.0):
        prompt = make_session(1, due_s=due_s, length=16_000, missing=16_000)
        assert schedule([prompt], exact()).num_tokens == MAX_STEP_TOKENS


def test_a_prompt_gets_the_room_that_costs_little() -> None:
    prompt = make_session(1, due_s=1.0, length=1000, missing=1000)
    others = [make_session(n, due_s=1.0, has_edge=False) for n in range(2, 12)]
    batch = schedule([prompt, *others], exact())
    chunk = {seat.session.id: seat.num_tokens for seat in batch.seats}[1]
    truth = exact()
    assert len(batch) == 11
    assert chunk >= 128 - 10  # the floor's
    assert truth.predict_s(shape_of(batch)) < 1.3 * truth.predict_s(
        shape_of(plain(batch.seats[:10]))
    )


def whole_prompts(num_prompts: int, num_drafts: int) -> int:
    """Of 160 tokens each, beside 30 sessions with so many drafts each."""
    prompts = [make_session(n, due_s=3.0, length=160, missing=160) for n in range(num_prompts)]
    others = [
        make_session(100 + n, due_s=3.0, acceptance=[0.95] * num_drafts, complete=False)
        for n in range(30)
    ]
    seats = schedule([*prompts, *others], FloorAndSlope(0.022, 75e-6, margin=0.0)).seats
    return sum(seat.num_tokens == 160 for seat in seats)


def test_a_queue_of_prompts_is_worth_a_longer_step() -> None:
    """Drafts that fill what is free leave prompts a few tokens a step: the more of them wait
    behind one another, the sooner a longer step is less than what they wait."""
    assert (whole_prompts(1, 2), whole_prompts(8, 2)) == (0, 2)


def test_a_prompt_that_would_cost_as_much_later_is_computed_now() -> None:
    """Where drafts have filled what is free its tokens take the same time in any step, and waiting
    saves nobody anything; where they have not, the next steps have room for it."""
    assert (whole_prompts(1, 2), whole_prompts(1, 3)) == (0, 1)


class Sloped(FloorAndSlope):
    """Each token above 40 takes a fiftieth of the step."""

    curve = Curve(floor_s=0.005, hinges={40: 1e-4})


def test_drafts_of_a_promise_that_plain_decoding_cannot_keep_are_worth_more() -> None:
    def num_drafts(*, rate: float, others: float, due_s: float = 0.0) -> tuple[int, int]:
        needy = make_session(0, due_s=due_s, acceptance=[0.6], rate=rate)
        rest = [make_session(n, due_s=3.0, acceptance=[0.6], rate=others) for n in range(1, 40)]
        seats = schedule([needy, *rest], Sloped()).seats
        assert len(seats) == 40
        drafts = {seat.session.id: len(seat.draft) for seat in seats}
        return drafts.pop(0), sum(drafts.values())

    assert num_drafts(rate=300.0, others=8.0) == (1, 0)
    assert num_drafts(rate=8.0, others=8.0) == (0, 0), "plain steps keep it"
    assert num_drafts(rate=300.0, others=8.0, due_s=3.0) == (0, 0), "it is ahead of its reader"
    assert num_drafts(rate=300.0, others=300.0) == (0, 0), "all of them are equal"
