from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.controller.calibration import learn
from wisp.controller.controller import Load, SpeculationController, gain, time_per_token_s
from wisp.core import REST, Directive, EdgeHistory, Sampling, Session, Slo

FIRST = Directive(window=8, threshold=0.3)
BUSY = Load(plain_s=0.1, step_s=0.05, price=0.2)  # plain decoding is slow: drafts pay


@pytest.fixture
def controller() -> SpeculationController:
    return SpeculationController(FIRST, block_tokens=4, max_window=64)


def make_session(acceptance: float, *, draft_time_s: float = 0.01, rtt_s: float = 0.04) -> Session:
    session = Session(
        1,
        [1],
        Sampling(max_tokens=100, seed=0),
        Slo(tokens_per_s=10, first_token_s=1),
        directive=FIRST,
        has_edge=True,
    )
    session.history = EdgeHistory(draft_time_s=draft_time_s, round_trip_s=rtt_s)
    verify(session, acceptance, random.Random(1), rounds=100)
    return session


def verify(session: Session, acceptance: float, chance: random.Random, rounds: int = 1) -> None:
    for _ in range(rounds):
        accepted = [chance.random() < acceptance for _ in range(4)]
        learn(session.history, [acceptance] * 4, (*accepted, False).index(False))


def run(
    controller: SpeculationController, session: Session, load: Load, until_s: float
) -> list[int]:
    """The windows of verdicts every 50 ms."""
    windows = []
    while session.committed_s < until_s:
        session.committed_s += 0.05
        session.directive = controller.directive(session, load)
        windows.append(session.directive.window)
    return windows


def test_an_edge_starts_with_the_first_directive(controller: SpeculationController) -> None:
    session = make_session(0.8)
    session.history = EdgeHistory()
    assert controller.directive(session, Load()) == FIRST


def test_without_an_edge_there_is_nothing_to_ask(controller: SpeculationController) -> None:
    session = make_session(0.8)
    session.has_edge = False
    assert controller.directive(session, BUSY) == REST


def test_drafts_that_pay_go_on(controller: SpeculationController) -> None:
    windows = run(controller, make_session(0.8), BUSY, 5.0)
    assert min(windows) > 0


@pytest.mark.parametrize(
    ("acceptance", "load"),
    [
        (0.05, BUSY),
        (0.5, Load(plain_s=0.1, step_s=0.05, price=0.9)),  # each draft costs others more
        (0.8, Load(plain_s=0.007, step_s=0.007, price=0.0)),  # the target alone is faster
    ],
)
def test_the_edge_rests_when_drafts_do_not_pay(
    controller: SpeculationController, acceptance: float, load: Load
) -> None:
    windows = run(controller, make_session(acceptance), load, 4.0)
    assert windows[-1] == 0


def test_it_comes_back_when_the_price_falls(controller: SpeculationController) -> None:
    session = make_session(0.8)
    assert run(controller, session, Load(0.1, 0.05, price=1.0), 3.0)[-1] == 0
    assert run(controller, session, BUSY, 6.0)[-1] > 0


def test_it_comes_back_when_a_probe_is_accepted(controller: SpeculationController) -> None:
    session = make_session(0.05)
    chance = random.Random(3)
    assert run(controller, session, BUSY, 4.0)[-1] == 0
    for _ in range(200):
        if run(controller, session, BUSY, session.committed_s + 0.05)[-1]:
            verify(session, 0.9, chance)
    assert session.directive.window > 4


def test_a_probe_that_fails_is_repeated_ever_more_rarely(
    controller: SpeculationController,
) -> None:
    session = make_session(0.05)
    chance = random.Random(3)
    drafting = []
    for _ in range(2400):  # two minutes
        drafting.append(run(controller, session, BUSY, session.committed_s + 0.05)[-1] > 0)
        if drafting[-1]:
            verify(session, 0.05, chance)
    halves = sum(drafting[:1200]), sum(drafting[1200:])
    assert 0 < halves[1] < halves[0] < 200


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.3, 0.9))
def test_noise_does_not_make_it_flap(seed: int, acceptance: float) -> None:
    controller = SpeculationController(FIRST, block_tokens=4, max_window=64)
    chance, session = random.Random(seed), make_session(acceptance)
    # The load at which drafting neither pays nor costs: the worst case for a switch.
    level = time_per_token_s(session.history, BUSY)
    switches, before = 0, True
    for _ in range(1200):  # one minute
        load = Load(level * chance.uniform(0.95, 1.05), BUSY.step_s, 0.1)
        window = run(controller, session, load, session.committed_s + 0.05)[-1]
        if window:
            verify(session, acceptance, chance)
        switches += (window > 0) != before
        before = window > 0
    assert switches <= 30  # of 1200 verdicts: two for each probe, and a few at the thresholds


@given(st.floats(0.001, 0.1), st.floats(0.0, 0.5), st.floats(0.001, 0.1))
def test_the_window_covers_the_round_trip(draft_s: float, rtt_s: float, step_s: float) -> None:
    controller = SpeculationController(FIRST, block_tokens=4, max_window=64)
    history = EdgeHistory(draft_time_s=draft_s, round_trip_s=rtt_s)
    window = controller.window(history, Load(0.1, step_s, 0.1))
    assert window == 64 or (window - 4) * draft_s >= rtt_s + step_s - 1e-9


def test_the_threshold_is_the_price(controller: SpeculationController) -> None:
    session = make_session(0.9)
    assert controller.directive(session, Load(0.1, 0.05, 0.4)).threshold == 0.4


def test_gain_rises_with_acceptance_and_falls_with_distance() -> None:
    near, far, poor = make_session(0.8), make_session(0.8, rtt_s=0.2), make_session(0.4)
    assert gain(near.history, BUSY) > gain(far.history, BUSY)
    assert gain(near.history, BUSY) > gain(poor.history, BUSY)
