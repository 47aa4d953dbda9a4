"""For whom own drafts are asked, and how many."""

from __future__ import annotations

import pytest

from tests.scheduler.worlds import FIRST
from wisp.core.batch import Batch
from wisp.core.own_drafts import NOTHING, Proposed
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.estimator.base import Estimator
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape
from wisp.scheduler.base import Situation
from wisp.scheduler.policy import make_policy
from wisp.scheduler.speculation import REST_S
from wisp.scheduler.tuning import PolicyChoice
from wisp.scheduler.wisp import Wisp

STEP_S = 0.02


class Flat(Estimator):
    """A step takes 20 ms, whatever is in it."""

    curve = Curve(floor_s=STEP_S, hinges={})
    margin = 0.0

    def observe(self, shape: StepShape, time_s: float) -> None:
        """It knows."""


class Knee(Flat):
    """Two milliseconds for each token above 24."""

    curve = Curve(floor_s=STEP_S, hinges={24: 2e-3})


class Steep(Flat):
    """A millisecond for each token."""

    curve = Curve(floor_s=0.001, hinges={0: 1e-3})


def policy(max_own: int = 4, costs: Estimator | None = None) -> Wisp:
    choice = PolicyChoice(policy="wisp", max_step_tokens=512)
    found = make_policy(choice, costs or Flat(), max_own=max_own)
    assert isinstance(found, Wisp)
    return found


def sessions(num: int, *, has_edge: bool = False, max_tokens: int = 100) -> list[Session]:
    found = []
    for number in range(num):
        session = Session(
            number,
            list(range(50)),
            Sampling(max_tokens=max_tokens, seed=number),
            Slo(tokens_per_s=8.0, first_token_s=1),
            directive=FIRST,
            has_edge=has_edge,
            drafts_own=True,
            overlaps=True,
        )
        session.computed(49)
        found.append(session)
    return found


def decide(wisp: Wisp, seated: list[Session], now: float = 0.0) -> Batch:
    return wisp.schedule(Situation(seated, now))


def taught(pass_s: float, costs: Estimator | None = None) -> Wisp:
    """It has seen some steps of those sessions, with passes that took so long, and with so many
    tokens that nobody doubts that drafts gain."""
    wisp = policy(costs=costs)
    seated = sessions(8)
    period_s = STEP_S + 2 * pass_s  # one step behind the other: nothing is lost in between
    for number in range(-15, 0):
        now = NOW + number * period_s
        batch = decide(wisp, seated, now)
        for seat in batch.seats:
            seat.num_own = 2
        wisp.observe(batch, [30] * len(batch), STEP_S + 2 * pass_s, now, 2 * pass_s)
    return wisp


NOW = 4.0  # right behind what `taught` has seen


def asked(wisp: Wisp, seated: list[Session], now: float = NOW) -> list[int]:
    return [seat.num_own for seat in decide(wisp, seated, now).seats]


def test_without_a_drafter_nobody_asks() -> None:
    assert asked(policy(max_own=0), sessions(8)) == [0] * 8


def test_passes_are_tried_before_anything_is_known_of_them() -> None:
    assert asked(policy(), sessions(8), now=0.0) == [2] * 8


def test_cheap_passes_are_worth_many() -> None:
    assert asked(taught(1e-4), sessions(8)) == [4] * 8


def test_dear_passes_are_worth_none() -> None:
    assert asked(taught(0.1), sessions(8)) == [0] * 8


def test_the_number_is_the_best_of_all() -> None:
    """(1 + sum of p^j) / (step + k passes), of p = 0.7 and a pass of a fifth of a step."""
    rate = [(1 + sum(0.7**j for j in range(1, k + 1))) / (1 + 0.2 * k) for k in range(5)]
    best = max(range(5), key=lambda k: rate[k])
    assert 0 < best < 4
    assert asked(taught(0.2 * STEP_S), sessions(8)) == [best] * 8


def test_after_a_while_dear_passes_are_tried_again() -> None:
    wisp = taught(0.1)
    assert asked(wisp, sessions(8), now=NOW + 1.0) == [0] * 8
    later = NOW + REST_S + 0.1
    plain = decide(wisp, sessions(8), later)
    assert plain.plain, "the guard's own trial comes first"
    assert [seat.num_own for seat in plain.seats] == [0] * 8
    wisp.observe(plain, [1] * 8, STEP_S, later)
    for _ in range(8):  # and then that of own drafts
        batch = decide(wisp, sessions(8), later)
        assert [seat.num_own for seat in batch.seats] == [0] * 8
        wisp.observe(batch, [1] * 8, STEP_S, later)
    assert asked(wisp, sessions(8), now=later) == [2] * 8


def test_where_tokens_are_dear_nobody_asks() -> None:
    found = asked(policy(costs=Steep()), sessions(30), now=0.0)
    assert found == [0] * len(found) != []


def test_an_edge_that_drafts_in_time_is_waited_for() -> None:
    wisp = taught(1e-4)
    seated = sessions(8, has_edge=True)
    for session in seated[:4]:
        session.edge_stats.draft_time_s = 0.004
        session.edge_stats.round_trip_s = 0.002
    for session in seated[4:]:  # a Raspberry Pi behind a bad network
        session.edge_stats.draft_time_s = 0.07
        session.edge_stats.round_trip_s = 0.3
    for session in seated:
        session.committed_s = NOW
    batch = decide(wisp, seated, NOW)
    by_session = {seat.session.id: seat.num_own for seat in batch.seats}
    assert [by_session.get(number, 0) for number in range(8)] == [0] * 4 + [4] * 4


def test_drafts_of_this_step_are_not_counted_as_those_of_the_next() -> None:
    wisp = taught(1e-4, Knee())
    seated = sessions(8)
    assert asked(wisp, seated) == [2] * 8, "there is room for two each"
    for session in seated:
        session.proposed(Proposed([1], [0.9]))
    seats = decide(wisp, seated, NOW).seats
    assert {(len(seat.draft), seat.num_own) for seat in seats} == {(1, 2)}


def test_the_end_of_a_prompt_asks_too() -> None:
    """Its session decodes in the next step. One whose prompt goes on then has no use for drafts."""
    seated = sessions(8)
    for session in seated[:2]:
        session.computed(20)
    wisp = taught(1e-4)
    batch = decide(wisp, seated, NOW)
    ends = {seat.session.id: seat.num_own for seat in batch.seats if seat.num_context == 30}
    assert ends == {0: 4, 1: 4}
    long = sessions(1)[0]
    long.tokens += [1] * 2000
    seats = decide(wisp, [*seated[2:], long], NOW).seats
    assert [seat.num_own for seat in seats if seat.session is long] == [0]


def test_drafts_that_are_left_over_come_first() -> None:
    wisp = taught(1e-4)
    (session,) = sessions(1)
    session.proposed(Proposed([1] * 4, [0.9] * 4))
    (seat,) = decide(wisp, [session], NOW).seats
    assert seat.draft == [1] * 4
    assert seat.num_own > 0, "all of them are verified in this step"


def test_an_edge_is_judged_by_what_it_brought() -> None:
    """However fast it says it is; and what it brought long ago is forgotten."""
    wisp = taught(1e-4)
    (session,) = sessions(1, has_edge=True)
    session.committed_s = NOW
    edge = session.edge_stats
    edge.draft_time_s, edge.round_trip_s = 0.004, 0.002
    found = []
    for num_steps, num_accepted, has_other in ((0, 0, False), (40, 0, False), (600, 0, True)):
        for _ in range(num_steps):
            edge.stepped(num_accepted, has_other=has_other)
        session.asked(FIRST)
        found += asked(wisp, [session])
    assert found == [0, 4, 0]


def test_what_is_lost_between_two_steps_counts() -> None:
    """Own drafts are waited for, and the target with them."""
    wisp, now = taught(1e-4), NOW
    doubtful = sessions(8)
    for session in doubtful:
        assert session.own_drafts
        for _ in range(4):
            session.own_drafts.propose(Proposed([1], [0.7]))
            session.own_drafts.learn(1, 0)
            session.own_drafts.propose(NOTHING)
    assert sum(asked(wisp, doubtful)) > 0
    for _ in range(40):
        batch = decide(wisp, sessions(8), now)
        for seat in batch.seats:
            seat.num_own = 2
        now += 3 * STEP_S  # of which the host took two thirds
        wisp.observe(batch, [30] * len(batch), STEP_S, now, 1e-4)
    assert asked(wisp, doubtful, now) == [0] * 8


@pytest.mark.parametrize(("left", "most"), [(1, 0), (2, 0), (3, 1), (4, 2)])
def test_no_more_than_the_answer_has_room_for(left: int, most: int) -> None:
    """A step commits one token at least, and the last one is the target's own."""
    (session,) = sessions(1, max_tokens=left)
    assert asked(taught(1e-4), [session]) == [most]
