"""What steps committed decides whether drafts go on, whatever the estimate said."""

from __future__ import annotations

import pytest

from benchmarks.sim.fleet import Setup, simulate
from benchmarks.sim.regimes import LAWS
from benchmarks.sim.step_times import LinearTimes
from benchmarks.sim.text import BetaTexts
from tests.scheduler.worlds import make_session
from wisp.core.batch import Batch, Seat
from wisp.core.drafts import REST, Directive, Source
from wisp.scheduler.guard import Guard, OwnGuard
from wisp.scheduler.tuning import Tuning
from wisp.testing.floor_and_slope import FloorAndSlope


class Server:
    """8 sessions; a step with drafts commits 3 tokens a session."""

    def __init__(self, drafted_s: float, plain_s: float, between_s: float = 0.0) -> None:
        """`between_s`: from the end of a step to the beginning of the next."""
        self.guard = Guard()
        self.between_s = between_s
        self.now = 0.0
        self.times_s = {False: drafted_s, True: plain_s}
        self.seats = [Seat(make_session(n, due_s=1.0), 1) for n in range(8)]

    def run(self, until_s: float) -> float:
        """The share of the time in plain steps."""
        start_s, plain_s = self.now, 0.0
        while self.now < until_s:
            plain = self.guard.plain(8, self.now)
            time_s = self.times_s[plain]
            self.now += self.between_s + time_s
            plain_s += (self.between_s + time_s) * plain
            batch = Batch(self.seats, num_sessions=8, plain=plain)
            self.guard.observe(batch, [1 if plain else 3] * 8, time_s, self.now)
        return plain_s / (self.now - start_s)


def test_drafts_that_gain_go_on_and_trials_cost_next_to_nothing() -> None:
    server = Server(drafted_s=0.04, plain_s=0.03)
    server.run(10.0)
    assert 0.0 < server.run(300.0) < 0.005


def test_what_even_the_shortest_step_could_not_commit_needs_no_trial() -> None:
    """A step of one token took 30 ms: one of 8 takes no less, and commits no more than 267 a second
    where 600 are written."""
    server = Server(drafted_s=0.04, plain_s=0.03)
    server.guard.observe(Batch(server.seats[:1], num_sessions=1), [1], 0.03, 0.03)
    assert server.run(300.0) == 0.0


def test_a_short_step_of_own_drafts_is_no_longer_than_the_targets_part() -> None:
    """Of the 30 ms a drafter took 25: 8 tokens in 10 ms may be more than 24 in 40."""
    server = Server(drafted_s=0.04, plain_s=0.01)
    server.guard.observe(Batch(server.seats[:1], num_sessions=1), [1], 0.03, 0.03, 0.025)
    assert server.run(20.0) > 0.5


def test_what_every_step_waits_for_counts_against_no_drafts() -> None:
    """They commit three tokens for one in twice the time that passes, if thrice the device's."""
    server = Server(drafted_s=0.031, plain_s=0.01, between_s=0.01)
    server.run(10.0)
    assert server.run(300.0) < 0.05


def test_drafts_that_lose_rest_within_seconds_and_for_ever_longer() -> None:
    server = Server(drafted_s=0.04, plain_s=0.01)
    assert server.run(7.0) < 0.5
    assert server.run(20.0) > 0.6
    assert server.run(300.0) > 0.9


def test_they_come_back_when_they_gain() -> None:
    server = Server(drafted_s=0.04, plain_s=0.01)
    server.run(60.0)
    server.times_s[False] = 0.02
    server.run(200.0)
    assert server.run(300.0) < 0.05


@pytest.mark.parametrize(("own_s", "rests"), [(0.036, False), (0.06, True)])
def test_own_drafts_rest_where_steps_without_them_commit_more(own_s: float, rests: bool) -> None:
    """8 sessions commit 12 tokens in 30 ms with those of their edges, with own drafts 16."""
    guard, now, last = OwnGuard(), 0.0, {False: 0.0, True: 0.0}
    session = make_session(1, due_s=1.0)
    sessions = [session] * 8
    drafting = [Seat(session, 1, [1], Source.OWN, num_own=1)]
    ends = [Seat(session, 1, [1], Source.OWN)]  # those that are left when none are made any more
    without = [Seat(session, 1, [1])]
    seats = drafting
    while now < 60.0:
        asks = not guard.rests(sessions, now)
        seats = drafting if asks else ends if seats is drafting else without
        time_s = 0.03 if seats is without else own_s
        now += time_s
        if now > 20.0:
            last[asks] += time_s
        guard.observe(Batch(seats, num_sessions=8), [12 if seats is without else 16], time_s, now)
    share = last[True] / (last[True] + last[False])
    assert share < 0.1 if rests else share > 0.97, share


class OwnServer:
    """A step of own drafts commits 3 tokens a session in 40 ms, one without them 2 in 35 ms."""

    def __init__(self, *, has_edge: bool) -> None:
        self.guard = OwnGuard()
        self.now = 0.0
        session = make_session(1, due_s=1.0, has_edge=has_edge)
        session.asked(Directive(window=4, threshold=0.3) if has_edge else REST)
        self.sessions = [session] * 32
        self.with_own = Seat(session, 1, [1, 2], Source.OWN, num_own=2)
        self.without = Seat(session, 1)

    def run(self, num_sessions: int, for_s: float) -> int:
        """How many steps are taken without own drafts."""
        num_without, until_s = 0, self.now + for_s
        while self.now < until_s:
            rests = self.guard.rests(self.sessions[:num_sessions], self.now)
            num_without += rests
            seats = [self.without if rests else self.with_own] * num_sessions
            tokens, time_s = (2, 0.035) if rests else (3, 0.04)
            self.now += time_s
            batch = Batch(seats, num_sessions=num_sessions)
            self.guard.observe(batch, [tokens] * num_sessions, time_s, self.now)
        return num_without


@pytest.mark.parametrize(
    ("edge", "is_tried"), [("none", False), ("slow", False), ("fast", True), ("new", True)]
)
def test_own_drafts_are_tried_where_those_of_edges_might_do_better(
    edge: str, is_tried: bool
) -> None:
    """Without any drafts 8 sessions commit 8 tokens in a step, which takes no less than one of a
    single session: 30 ms. Of an edge that drafts a token in 150 ms it accepts 0.15 more."""
    server = OwnServer(has_edge=edge != "none")
    stats = server.sessions[0].edge_stats
    stats.draft_time_s = {"slow": 0.15, "fast": 0.01}.get(edge)
    server.guard.observe(Batch([server.without], num_sessions=1), [1], 0.03, 0.03)
    assert (server.run(8, for_s=60.0) > 0) is is_tried


def test_n_grams_that_are_here_might_do_better_than_own_drafts() -> None:
    server = OwnServer(has_edge=False)
    session = server.sessions[0] = make_session(1, due_s=1.0, has_edge=False, max_ngram=8)
    server.sessions = [session] * 32
    session.commit([7, 8, 9, 7, 8, 9], 0.0)
    assert session.drafts.source is Source.NGRAM
    server.guard.observe(Batch([server.without], num_sessions=1), [1], 0.03, 0.03)
    assert server.run(8, for_s=60.0) > 0


def test_a_trial_tells_of_other_numbers_of_sessions_for_a_while() -> None:
    """As many sessions more would not commit more in a longer step, nor fewer ones twice as many
    tokens a second in a shorter one."""
    server = OwnServer(has_edge=True)
    server.guard.observe(Batch([server.without], num_sessions=1), [1], 0.034, 0.034)
    assert server.run(16, for_s=7.0) > 0
    assert server.run(32, for_s=20.0) == 0
    assert server.run(8, for_s=20.0) == 0
    assert server.run(8, for_s=60.0) > 0


def test_the_first_steps_with_drafts_do_not_decide() -> None:
    """A regime begins with steps that make drafts and have none yet."""
    guard, now, num_plain = Guard(), 0.0, 0
    seats = [Seat(make_session(n, due_s=1.0), 1) for n in range(8)]
    for number in range(400):
        plain = guard.plain(8, now)
        num_plain += plain
        time_s = 0.02 if plain else 0.1 if number < 5 else 0.025
        now += time_s + (6.0 if number == 5 else 0.0)  # few have been seen when a trial is due
        tokens = 1 if plain or number < 5 else 3
        guard.observe(Batch(seats, num_sessions=8, plain=plain), [tokens] * 8, time_s, now)
    assert 0 < num_plain < 20


def test_a_load_that_begins_is_no_sign_that_drafts_lose() -> None:
    """Edges have none yet: steps that are open to drafts are like plain ones, and a little slower.
    What a load that grew through this number of sessions left behind is of such steps alone."""
    guard, plain_s = Guard(), 0.0

    def run(start_s: float, until_s: float, drafts_from_s: float) -> None:
        nonlocal plain_s
        now = start_s
        while now < until_s:
            plain = guard.plain(8, now)
            tokens = 20 if now > drafts_from_s and not plain else 8
            time_s = 0.02 if plain else 0.021
            now += time_s
            plain_s += time_s * plain
            seats = [Seat(make_session(n, due_s=1.0), 1) for n in range(8)]
            guard.observe(Batch(seats, num_sessions=8, plain=plain), [tokens], time_s, now)

    run(0.0, 1.0, drafts_from_s=9.0)
    run(14.0, 26.0, drafts_from_s=14.3)
    assert plain_s < 0.02 * 13.0


def test_a_trial_waits_for_a_step_without_prompts() -> None:
    server = Server(drafted_s=0.04, plain_s=0.03)
    while not server.guard.plain(8, server.now):
        server.run(server.now + 0.05)
    assert not server.guard.plain(8, server.now, has_prompts=True)


def test_a_trial_of_own_drafts_that_tells_nothing_is_put_off() -> None:
    """Where prompts come in every other step, those between still verify own drafts."""
    guard, now, num_without = OwnGuard(), 0.0, 0
    session = make_session(1, due_s=1.0)
    asks = False
    for number in range(2000):
        has_prompts = number % 2 == 0
        verified = [Seat(session, 1, [1], Source.OWN)] if asks else [Seat(session, 1)]
        asks = not guard.rests([session] * 8, now, has_prompts=has_prompts)
        num_without += not asks
        seats = [*verified, Seat(session, 20)] if has_prompts else verified
        for seat in seats[:1]:
            seat.num_own = int(asks)
        now += 0.03
        guard.observe(Batch(seats, num_sessions=8), [2] * len(seats), 0.03, now)
    assert 0 < num_without < 0.1 * 2000


@pytest.mark.parametrize("acceptance", [0.2, 0.7])
def test_an_estimate_that_takes_drafts_for_free_costs_little(acceptance: float) -> None:
    """Of a target that takes 4 ms for each token."""
    law = LAWS["half"]
    assert isinstance(law, LinearTimes)
    setup = Setup(
        step_times=law._replace(token_s=4e-3, seat_s=1e-4),
        texts=BetaTexts(acceptance),
        warm_up_s=20.0,
        measured_s=20.0,
    )
    wrong = FloorAndSlope(floor_s=0.05, token_s=1e-6, context_s=0.0)
    # Both know as little, so that they differ by the drafts alone.
    plain = simulate("centralized", 8, setup, Tuning(), estimator=wrong).tokens_per_s
    found = simulate("wisp", 8, setup, Tuning(), estimator=wrong).tokens_per_s
    assert found > 0.95 * plain
