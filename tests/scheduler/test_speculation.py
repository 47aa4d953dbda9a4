from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.core.drafts import REST, Directive, DraftBlock
from wisp.core.edge_stats import EdgeStats
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.scheduler.speculation import Load, SpeculationController, gain

FIRST = Directive(window=8, threshold=0.3)
FREE = Load(step_s=0.05, marginal_cost=0.02)
SCARCE = Load(step_s=0.05, marginal_cost=0.2)


@pytest.fixture
def controller() -> SpeculationController:
    return SpeculationController(FIRST, block_tokens=4, max_window=64)


class Edge:
    """Each verdict takes 50 ms; while it is asked to, it has four drafts for each."""

    def __init__(
        self, acceptance: float, *, draft_time_s: float = 0.01, rtt_s: float = 0.04, seed: int = 1
    ) -> None:
        sampling, slo = Sampling(max_tokens=100, seed=0), Slo(tokens_per_s=10, first_token_s=1)
        self.session = Session(1, [1], sampling, slo, directive=FIRST, has_edge=True)
        self.stats = self.session.edge_stats
        self.stats.draft_time_s, self.stats.round_trip_s = draft_time_s, rtt_s
        self.acceptance = acceptance
        self._chance = random.Random(seed)

    def verdict(self) -> None:
        self.session.committed_s += 0.05
        if self.session.directive.window:
            accepted = [self._chance.random() < self.acceptance for _ in range(4)]
            number = (*accepted, False).index(False)
            self.stats.learn([self.acceptance] * 4, number)
            self.stats.count(4, number, number + 1)

    def run(self, controller: SpeculationController, load: Load, time_s: float) -> list[int]:
        """The windows of the verdicts."""
        windows = []
        for _ in range(round(time_s / 0.05)):
            self.verdict()
            self.session.directive = controller.directive(self.session, load)
            windows.append(self.session.directive.window)
        return windows


def test_an_edge_drafts_before_anything_is_known(controller: SpeculationController) -> None:
    found = controller.directive(Edge(0.8).session, Load())
    assert found.window == 4 + 4  # a block, and what is drafted in the round trip
    assert found.threshold <= FIRST.threshold


def test_without_an_edge_there_is_nothing_to_ask(controller: SpeculationController) -> None:
    session = Edge(0.8).session
    session.has_edge = False
    assert controller.directive(session, FREE) == REST


@pytest.mark.parametrize("load", [FREE, SCARCE])
def test_drafts_that_pay_go_on(controller: SpeculationController, load: Load) -> None:
    assert min(Edge(0.8).run(controller, load, 10.0)) > 0


@pytest.mark.parametrize(
    ("acceptance", "load"),
    [
        (0.0, FREE),
        (0.05, FREE._replace(marginal_cost=0.1)),
        (0.5, SCARCE._replace(marginal_cost=0.9)),  # each draft costs others more
    ],
)
def test_the_edge_rests_when_drafts_do_not_pay(
    controller: SpeculationController, acceptance: float, load: Load
) -> None:
    assert Edge(acceptance).run(controller, load, 4.9)[-1] == 0


def test_an_edge_whose_drafts_never_come_in_time_rests(controller: SpeculationController) -> None:
    edge = Edge(0.8)
    for _ in range(100):
        edge.stats.count(0, 0, 1)
    assert controller.directive(edge.session, FREE) == REST


def test_it_comes_back_when_the_price_falls(controller: SpeculationController) -> None:
    edge = Edge(0.8)
    assert edge.run(controller, FREE._replace(marginal_cost=1.0), 4.0)[-1] == 0
    assert edge.run(controller, FREE, 6.0)[-1] > 0


def test_it_comes_back_when_a_trial_succeeds(controller: SpeculationController) -> None:
    edge = Edge(0.0)
    assert edge.run(controller, FREE, 4.9)[-1] == 0
    edge.acceptance = 0.9
    assert edge.run(controller, FREE, 10.0)[-1] > 4


def test_a_trial_that_fails_is_repeated_ever_more_rarely(
    controller: SpeculationController,
) -> None:
    windows = Edge(0.0).run(controller, FREE, 120.0)
    drafting = [window > 0 for window in windows]
    halves = sum(drafting[:1200]), sum(drafting[1200:])
    assert 0 < halves[1] < halves[0] < 300


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.3, 0.9))
def test_noise_does_not_make_it_flap(seed: int, acceptance: float) -> None:
    controller = SpeculationController(FIRST, block_tokens=4, max_window=64)
    chance, edge = random.Random(seed), Edge(acceptance, seed=seed)
    edge.run(controller, FREE, 5.0)
    # The price at which drafting neither pays nor costs: the worst case for a switch.
    level = edge.stats.from_edge / max(1.0, edge.stats.verified)
    switches, before = 0, True
    for _ in range(1200):  # one minute
        load = SCARCE._replace(marginal_cost=level * chance.uniform(0.95, 1.05))
        (window,) = edge.run(controller, load, 0.05)
        switches += (window > 0) != before
        before = window > 0
    assert switches <= 10  # a rest is of 5 s at least, and twice as long each time


@given(st.floats(0.001, 0.1), st.floats(0.0, 0.5), st.floats(0.001, 0.1))
def test_the_window_covers_the_round_trip(draft_s: float, rtt_s: float, step_s: float) -> None:
    controller = SpeculationController(FIRST, block_tokens=4, max_window=64)
    stats = EdgeStats(draft_time_s=draft_s, round_trip_s=rtt_s)
    window = controller.window(stats, FREE._replace(step_s=step_s))
    assert window == 64 or (window - 4) * draft_s >= rtt_s + step_s - 1e-9


def test_a_device_that_heats_up_is_asked_for_less(controller: SpeculationController) -> None:
    """It says of each block how long it took; nobody needs to know why."""
    edge = Edge(0.8, draft_time_s=0.01)
    cool = controller.directive(edge.session, FREE).window
    for number in range(12):
        block = DraftBlock(1, 5 + number, [1], [0.8], draft_time_s=0.03)
        edge.stats.arrived(block, float(number), begins_epoch=False)
    assert edge.stats.draft_time_s == pytest.approx(0.03, rel=0.05)
    hot = controller.directive(edge.session, FREE).window
    assert (cool, hot) == (4 + 9, 4 + 4)  # a block, and what is drafted in 90 ms


def test_the_threshold_is_the_price(controller: SpeculationController) -> None:
    edge = Edge(0.9)
    edge.run(controller, FREE, 3.0)
    assert controller.directive(edge.session, FREE._replace(marginal_cost=0.4)).threshold == 0.4


def test_gain_rises_with_acceptance_and_falls_with_the_price(
    controller: SpeculationController,
) -> None:
    good, poor = Edge(0.8), Edge(0.4)
    for edge in (good, poor):
        edge.run(controller, FREE, 5.0)
    assert gain(good.stats, FREE) > gain(poor.stats, FREE)
    assert gain(good.stats, FREE) > gain(good.stats, SCARCE)
