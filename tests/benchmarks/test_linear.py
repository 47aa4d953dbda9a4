from __future__ import annotations

import math
import random

import pytest

from benchmarks.linear import LinearEstimator
from wisp.estimator.shape import StepShape


def linear_steps(number: int, seed: int) -> list[tuple[StepShape, float]]:
    chance = random.Random(seed)
    made = []
    for _ in range(number):
        new, cached = chance.randint(1, 2000), chance.randint(0, 500_000)
        product = float(new * chance.randint(1, 4000))
        time_s = 5e-3 + 2e-5 * new + 1e-10 * product + 4e-8 * cached
        made.append((StepShape(new, new + cached, product, 1), time_s * chance.gauss(1, 0.01)))
    return made


def test_it_recovers_the_papers_model() -> None:
    estimator = LinearEstimator()
    estimator.fit(linear_steps(300, 1))
    assert estimator.weights == pytest.approx([20.0, 1.0, 4.0, 5.0], rel=0.1)


def test_it_learns_step_by_step_and_bounds() -> None:
    estimator = LinearEstimator()
    for shape, time_s in linear_steps(800, 2):
        estimator.observe(shape, time_s)
    shown = linear_steps(500, 3)
    errors = [abs(estimator.predict_s(shape) / time_s - 1) for shape, time_s in shown]
    assert sum(errors) / len(errors) < 0.02
    assert sum(time_s > estimator.upper_s(shape) for shape, time_s in shown) <= 25
    before = estimator.weights.tolist()
    estimator.observe(shown[0][0], math.nan)
    assert estimator.weights.tolist() == before
