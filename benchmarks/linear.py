"""The paper's estimator, the baseline: T = a * new + b * new * length + c * cached read + d."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wisp.estimator.fit import MEMORY, Observation, nnls
from wisp.estimator.shape import StepShape
from wisp.estimator.spread import Spread

Floats = NDArray[np.float64]

_UNITS = np.array([1e3, 1e7, 1e5, 1.0])  # so that all weights are some milliseconds
_PRIOR = np.array([26.0, 1.0, 3.0, 6.5])  # ms per unit; a few steps outweigh it
_HOLD = 1e-3  # of a step


class LinearEstimator:
    """What the paper's section on its estimator describes.

    Least squares of the absolute error, refit with forgetting as the other one is. The paper's
    b is over all new tokens, drafts too; a `StepShape` tells it of prefill chunks alone unless
    its caller puts the product of all seats there. The paper's safety margin, whose size it does
    not say, is the 95 % quantile of the relative residuals.
    """

    def __init__(self) -> None:
        self.weights: Floats = _PRIOR.copy()  # [4], ms per unit, in the order of the formula
        self.spread = Spread()
        self._start()

    def predict_s(self, shape: StepShape) -> float:
        return max(1e-6, float(_columns(shape) @ self.weights) * 1e-3)

    def upper_s(self, shape: StepShape) -> float:
        return (1.0 + self.spread.margin) * self.predict_s(shape)

    def observe(self, shape: StepShape, time_s: float) -> None:
        if not (math.isfinite(time_s) and time_s > 0.0):
            return
        self.spread.note(time_s / self.predict_s(shape) - 1.0)
        kept = 1.0 - 1.0 / MEMORY
        self._gram *= kept
        self._target *= kept
        self._add(shape, time_s)
        self._solve()

    def fit(self, observations: Sequence[Observation]) -> None:
        """Start anew from a profile; the margin is of the fit's own residuals, as in the paper."""
        self._start()
        for shape, time_s in observations:
            self._add(shape, time_s)
        self._solve()
        self.spread = Spread()
        residuals = [time_s / self.predict_s(shape) - 1.0 for shape, time_s in observations]
        self.spread.note_all(np.random.default_rng(0).permutation(residuals).tolist())

    def _start(self) -> None:
        self._gram = _HOLD * np.eye(len(_PRIOR))
        self._target = _HOLD * _PRIOR

    def _add(self, shape: StepShape, time_s: float) -> None:
        row = _columns(shape)
        self._gram += row[:, None] * row
        self._target += 1e3 * time_s * row

    def _solve(self) -> None:
        jitter = 1e-9 * np.eye(len(_PRIOR))  # the prior fades with all the rest
        self.weights = nnls(self._gram + jitter, self._target, self.weights)


def _columns(shape: StepShape) -> Floats:
    num_tokens, context, product, _ = shape
    row: Floats = np.array([num_tokens, product, context - num_tokens, 1.0]) / _UNITS
    return row
