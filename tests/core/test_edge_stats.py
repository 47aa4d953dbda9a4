from __future__ import annotations

import random

import pytest

from wisp.core.drafts import DraftBlock
from wisp.core.edge_stats import EdgeStats


def block(epoch: int, position: int) -> DraftBlock:
    return DraftBlock(epoch, position, [1, 2], [0.5, 0.5], draft_time_s=0.2)


def test_an_honest_edge_keeps_its_calibration() -> None:
    chance, stats = random.Random(1), EdgeStats()
    for _ in range(200):
        acceptance = [chance.uniform(0.3, 1.0) for _ in range(4)]
        accepted = [chance.random() < p for p in acceptance]
        stats.learn(acceptance, (*accepted, False).index(False))
    assert 0.8 < stats.calibration < 1.2


def test_a_liar_counts_as_rubbish_soon() -> None:
    stats = EdgeStats()
    calibrations = []
    for _ in range(60):
        stats.learn([1.0] * 8, 0)
        calibrations.append(stats.calibration)
    assert calibrations == sorted(calibrations, reverse=True)
    assert calibrations[9] < 0.25  # after ten rounds its first draft is worth a quarter of a token
    assert calibrations[-1] < 0.05


def test_the_round_trip_is_from_the_contradicting_verdict_to_the_block_that_answers_it() -> None:
    stats = EdgeStats()
    stats.answered(5, now=1.0)
    stats.arrived(block(epoch=1, position=5), 1.5, begins_epoch=True)
    assert stats.round_trip_s == pytest.approx(0.3)  # without the drafting
    assert stats.draft_time_s == pytest.approx(0.1)
    stats.arrived(block(epoch=1, position=7), 9.0, begins_epoch=False)  # goes on: answers nothing
    assert stats.round_trip_s == pytest.approx(0.3)
    assert stats.usual_s(4) == pytest.approx(0.7)


def test_a_trial_is_judged_by_what_it_brings_alone() -> None:
    stats = EdgeStats()
    stats.count(4, 3, 100)
    assert not stats.on_trial
    stats.rested(1.0)
    stats.tried(2.0)
    assert (stats.committed, stats.on_trial, stats.switched_s, stats.num_rests) == (0.0, True, 2, 1)
    stats.count(4, 0, 60)
    assert not stats.on_trial


def test_forgetting_keeps_the_ratios_and_lets_new_evidence_decide() -> None:
    stats = EdgeStats()
    for _ in range(50):
        stats.learn([0.9], 0)
    before = stats.acceptance.rate
    stats.forget()
    assert stats.acceptance.rate == pytest.approx(before)
    stats.learn([0.9] * 4, 4)
    assert stats.acceptance.rate > 0.6
