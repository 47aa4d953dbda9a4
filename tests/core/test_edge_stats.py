from __future__ import annotations

import random

import numpy as np
import pytest

from wisp.core.acceptance import cumulative_acceptance
from wisp.core.edge_stats import EdgeStats


def test_cumulative_acceptance_is_the_running_product_of_calibrated_predictions() -> None:
    acceptance = np.array([[0.8, 0.5], [1.0, 1.0], [0.9, 0.0]])
    found = cumulative_acceptance(acceptance, np.array([1.0, 0.5, 2.0]))
    assert found == pytest.approx(np.array([[0.8, 0.4], [0.5, 0.25], [1.0, 0.0]]))


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


def test_tokens_behind_a_rejected_one_tell_nothing() -> None:
    stats = EdgeStats()
    stats.learn([0.9, 0.9, 0.9], 0)
    assert stats.acceptance.examined == pytest.approx(0.98 * EdgeStats().acceptance.examined + 1)


def test_forgetting_keeps_the_ratios_and_lets_new_evidence_decide() -> None:
    stats = EdgeStats()
    for _ in range(50):
        stats.learn([0.9], 0)
    before = stats.acceptance.rate
    stats.forget()
    assert stats.acceptance.rate == pytest.approx(before)
    stats.learn([0.9] * 4, 4)
    assert stats.acceptance.rate > 0.6
