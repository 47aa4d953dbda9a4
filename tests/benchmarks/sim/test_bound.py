"""What is possible, against cases whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.load.texts import SessionTexts
from benchmarks.sim.bound import bound, session_rate
from benchmarks.sim.fleet import Setup
from benchmarks.sim.regimes import LAWS, REGIMES
from benchmarks.sim.step_times import NO_HOST
from benchmarks.sim.text import BetaTexts
from benchmarks.sim.workload import Lengths, Workload

NEVER, ALWAYS = (BetaTexts(p, spread=1e5, noise=0.0) for p in (0.002, 0.998))


def test_without_a_right_draft_a_session_gets_a_token_a_step() -> None:
    assert session_rate(0.02, 0.005, 0.03, NEVER) == pytest.approx(50.0, rel=0.02)


def test_with_right_drafts_alone_it_gets_what_it_drafts() -> None:
    assert session_rate(0.02, 0.005, 0.03, ALWAYS) == pytest.approx(200.0, rel=0.1)


@pytest.mark.parametrize(
    ("step_s", "draft_s", "round_trip_s", "gain"),
    [(0.026, 0.010, 0.002, 1.48), (0.026, 0.005, 0.03, 1.39), (0.1, 0.01, 0.08, 1.62)],
)
def test_the_event_model_gives_the_known_gains(
    step_s: float, draft_s: float, round_trip_s: float, gain: float
) -> None:
    texts = SessionTexts(0.7, 0.0)
    found = step_s * session_rate(step_s, draft_s, round_trip_s, texts)
    assert found == pytest.approx(gain, rel=0.05)


def test_many_devices_cannot_have_more_than_the_server_writes() -> None:
    """3.07 ms a token where no draft is right, and prompts of nothing."""
    setup = Setup(
        step_times=LAWS["paper"],
        host=NO_HOST,
        texts=NEVER,
        workload=Workload(Lengths(8.0), Lengths(400.0)),
    )
    assert bound(setup, 100) == pytest.approx(1.0 / 3.07e-3, rel=0.05)


def test_the_papers_set_up_allows_twice_what_plain_decoding_writes() -> None:
    setup = replace(REGIMES["paper"].setup(0.7, 1), host=NO_HOST)
    assert 1.8 < bound(setup, 90) / (1.0 / 3.25e-3) < 2.3  # with prompts a token takes 3.25 ms
