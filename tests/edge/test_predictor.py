"""The predictor on synthetic streams: it learns them, and its probabilities come to be true."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from tests.edge.synthetic import by_repetition, labels, overconfident, proposal
from wisp.edge.drafter.base import Proposal
from wisp.edge.predictor import ConfidencePredictor, Features, Label, LogisticPredictor, Predictor
from wisp.edge.predictor.calibration import Calibration
from wisp.edge.predictor.online import OnlineLogistic


def measured_error(predictor: Predictor, judged: list[Label]) -> float:
    calibration = Calibration(len(judged))
    for features, accepted in judged:
        calibration.add(predictor.acceptance(features), accepted)
    return calibration.error


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_prior_rises_with_confidence(temperature: float) -> None:
    predictor = LogisticPredictor()
    confidences = [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
    given = [predictor.acceptance(Features(proposal(c), temperature)) for c in confidences]
    assert given == sorted(given)
    assert given[0] < 0.05
    assert given[-1] > 0.95


def test_the_prior_trusts_a_likely_candidate_more_than_one_that_the_noise_lifted() -> None:
    predictor = LogisticPredictor()
    likely, lifted = (
        Features(dataclasses.replace(proposal(0.6), likelihood=share), temperature=1.0)
        for share in (0.6, 0.02)
    )
    assert predictor.acceptance(lifted) < predictor.acceptance(likely) - 0.1


def test_alternatives_are_learned_of_apart_from_what_was_proposed() -> None:
    predictor = LogisticPredictor()
    first = Features(proposal(0.6))
    before = predictor.acceptance(first)
    for _ in range(200):
        predictor.learn(Label(first._replace(rank=1), accepted=False))
    assert predictor.acceptance(first) == before
    assert predictor.acceptance(first._replace(rank=1)) < 0.1
    assert (predictor.num_labels, math.isnan(predictor.calibration_error)) == (0, True)


@pytest.mark.parametrize("truth", [overconfident, by_repetition])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_calibration_improves(truth: Callable[[Features], float], temperature: float) -> None:
    predictor = LogisticPredictor()
    held_out = list(labels(4000, 1, truth, temperature))
    before = measured_error(predictor, held_out)
    for label in labels(1500, 2, truth, temperature):
        predictor.learn(label)
    after = measured_error(predictor, held_out)
    assert before > 0.15
    assert after < before / 3
    assert after < measured_error(ConfidencePredictor(), held_out) / 3


def test_it_tells_apart_what_confidence_alone_cannot() -> None:
    predictor = LogisticPredictor()
    for label in labels(1500, 3, by_repetition):
        predictor.learn(label)
    for confidence in (0.3, 0.6, 0.9):
        repeated, new = (
            predictor.acceptance(Features(proposal(confidence), repeats=r)) for r in (1, -1)
        )
        assert repeated > 0.75
        assert new < 0.35


def test_it_follows_a_pair_that_changes() -> None:
    predictor = LogisticPredictor()
    for label in labels(20_000, 4, by_repetition):
        predictor.learn(label)
    held_out = list(labels(4000, 5, overconfident))
    before = measured_error(predictor, held_out)
    for label in labels(20_000, 6, overconfident):
        predictor.learn(label)
    assert measured_error(predictor, held_out) < before / 3


def test_greedy_and_sampled_choices_are_learned_apart() -> None:
    predictor = LogisticPredictor()
    features = Features(proposal(0.6), temperature=1.0)
    before = predictor.acceptance(features)
    for label in labels(500, 7, overconfident, temperature=0.0):
        predictor.learn(label)
    assert predictor.acceptance(features) == before
    assert predictor.num_labels == 500


@pytest.mark.parametrize("confidence", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_extremes_give_probabilities(confidence: float, temperature: float) -> None:
    features = Features(Proposal(1, confidence, 0.0, confidence, 0.0), temperature, run=10**6)
    predictor = LogisticPredictor()
    for accepted in (True, False, True):
        assert 0.0 < predictor.acceptance(features) < 1.0
        predictor.learn(Label(features, accepted))


def test_its_calibration_error_is_of_what_it_said_before_it_knew() -> None:
    predictor = LogisticPredictor()
    assert math.isnan(predictor.calibration_error)
    features = Features(proposal(0.9))
    given = predictor.acceptance(features)
    predictor.learn(Label(features, accepted=False))
    assert predictor.calibration_error == pytest.approx(given)


def test_a_belief_stays_one_whatever_it_is_told() -> None:
    """The covariance stays symmetric, positive, and never vaguer than the prior."""
    chance = random.Random(8)
    variance = (1.0, 0.5, 0.2)
    model = OnlineLogistic((0.0, 0.0, 0.0), variance)
    for _ in range(20_000):
        model.learn((1.0, chance.gauss(0, 3), 0.0), chance.random() < 0.5)
    covariance = np.array(model.state()["covariance"])
    assert (covariance == covariance.T).all()
    assert np.linalg.eigvalsh(covariance)[0] > 0
    assert covariance[2, 2] == pytest.approx(0.2)  # nothing was ever said of it
    assert 0 < covariance[1, 1] < 0.05


def test_calibration_is_the_mean_gap_by_bins() -> None:
    calibration = Calibration(num_recent=4)
    for predicted, happened in ((0.95, False), (0.25, True), (0.25, False), (0.75, True)):
        calibration.add(predicted, happened)
    # Bins: 0.95 against 0; 0.25 against one half, twice; 0.75 against 1.
    assert calibration.error == pytest.approx((0.95 + 2 * 0.25 + 0.25) / 4)
    calibration.add(0.75, True)  # the first is forgotten
    assert len(calibration) == 4
    assert calibration.error == pytest.approx((2 * 0.25 + 2 * 0.25) / 4)
