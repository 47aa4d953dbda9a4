from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from benchmarks import capacity, simulate, timeline
from benchmarks.capacity import STEP_TIMES, Point, best_capacity, setup_of
from benchmarks.sim.fleet import Setup
from wisp.scheduler.tuning import PolicyName, Tuning

SETUP = setup_of(STEP_TIMES["paper"], 8.0, 0.7, 10.0, 1)


@pytest.fixture
def holds_up_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Tuning, int]], None]:
    """In place of simulations: each tuning holds its promise up to a number of devices."""

    def use(limits: dict[Tuning, int]) -> None:
        def point(policy: PolicyName, fleet: int, setup: Setup, tuning: Tuning) -> Point:
            return Point(float(fleet <= limits[tuning]), *[0.0] * (len(Point._fields) - 1))

        monkeypatch.setattr(capacity, "point", point)
        monkeypatch.setitem(capacity.TUNINGS, "sled", tuple(limits))

    return use


@pytest.mark.parametrize("limit", [1, 7, 24, 41, 97, 200])
def test_bisection_finds_the_capacity(
    limit: int, holds_up_to: Callable[[dict[Tuning, int]], None]
) -> None:
    holds_up_to({Tuning(): limit})
    found, _ = best_capacity("sled", SETUP)
    assert 0.96 * limit - 1 <= found <= limit


def test_the_best_tuning_counts(holds_up_to: Callable[[dict[Tuning, int]], None]) -> None:
    best = Tuning(block_tokens=2)
    holds_up_to({Tuning(): 20, best: 60, Tuning(block_tokens=8): 40})
    found, tuning = best_capacity("sled", SETUP)
    assert found >= 58
    assert tuning == best


def test_no_device_and_every_device(holds_up_to: Callable[[dict[Tuning, int]], None]) -> None:
    holds_up_to({Tuning(): 0})
    assert best_capacity("sled", SETUP)[0] == 0
    holds_up_to({Tuning(): 10_000})
    assert best_capacity("sled", SETUP, max_count=100)[0] == 100


def test_the_benchmark_prints_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--rates 8 --loads 5 --policies centralized --seconds 5 --json"
    monkeypatch.setattr(sys, "argv", ["simulate", *options.split()])
    simulate.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["capacity"]["centralized"]["8"] > 10
    assert figures["goodput"]["centralized"] > 0
    assert figures["setting"]["step_times"] == "paper"


def test_the_same_seed_prints_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--rates 8 --loads 5 --policies wisp --seconds 5 --acceptance 0.5 --json"
    monkeypatch.setattr(sys, "argv", ["simulate", *options.split()])
    simulate.main()
    first = capsys.readouterr().out
    simulate.main()
    assert capsys.readouterr().out == first


def test_draft_ahead_hides_the_round_trip() -> None:
    last_s = {case: timeline.timeline(case, 0.2)[-1].end_s for case in timeline.WINDOWS}
    assert last_s["with draft-ahead"] < 0.95 * last_s["without draft-ahead"]
