"""The least estimator that is honest: T = floor + slope * (tokens above the floor) + context reads.

For tests and simulations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wisp.estimator.base import StepShape

_FLAT_TOKENS = 128  # a step up to so many reads the weights once and is done
_SCALE: NDArray[np.float64] = np.array(
    [1.0, 1e3, 1e5, 1e6]
)  # of the features, so that all weights are milliseconds
_KEPT = 0.99  # of the past, with every step


class FloorAndSlope:
    """Implements `wisp.estimator.base.Estimator` by recursive least squares with forgetting."""

    drift = 1.0  # it forgets so fast that it need not watch for a change

    def __init__(
        self,
        floor_s: float = 0.0065,
        token_s: float = 28e-6,
        context_s: float = 30e-9,
        product_s: float = 1e-10,
        *,
        margin: float = 0.1,
        learns: bool = True,
    ) -> None:
        self._weights = np.array([floor_s, token_s, context_s, product_s]) * _SCALE
        self._covariance = np.diag([10.0, 1.0, 1.0, 1.0])
        self._margin = margin  # of the upper quantile, relative
        self._learns = learns
        self._keep()

    def predict_s(self, shape: StepShape) -> float:
        floor_s, token_s, context_s, product_s = self._terms
        above = max(0, shape.num_tokens - _FLAT_TOKENS)
        time_s = floor_s + token_s * above
        return time_s + context_s * shape.num_context + product_s * shape.prefill_product

    def upper_s(self, shape: StepShape) -> float:
        return (1.0 + self._margin) * self.predict_s(shape)

    def observe(self, shape: StepShape, time_s: float) -> None:
        if not self._learns or time_s <= 0:
            return
        features = _features(shape)
        error_s = time_s - float(features @ self._weights)
        gain = self._covariance @ features / (_KEPT + features @ self._covariance @ features)
        self._weights = np.maximum(0.0, self._weights + gain * error_s)
        self._covariance = (self._covariance - np.outer(gain, features @ self._covariance)) / _KEPT
        np.clip(self._covariance, -100.0, 100.0, out=self._covariance)  # what is never seen
        # A quantile by steps: up 19 for each step down, so that 1 of 20 errors lies above.
        missed = error_s > self._margin * self.predict_s(shape)
        self._margin = min(2.0, max(0.02, self._margin + (0.019 if missed else -0.001)))
        self._keep()

    def _keep(self) -> None:
        self._terms: list[float] = (self._weights / _SCALE).tolist()


def _features(shape: StepShape) -> NDArray[np.float64]:
    above = max(0, shape.num_tokens - _FLAT_TOKENS)
    raw = (1.0, float(above), float(shape.num_context), shape.prefill_product)
    return np.array(raw, dtype=np.float64) / _SCALE
