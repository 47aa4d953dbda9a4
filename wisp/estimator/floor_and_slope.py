"""The least honest model: T = floor + slope * (tokens above the floor) + context reads.

It is given, and learns nothing: what tests take for the truth.
"""

from __future__ import annotations

from wisp.estimator.base import StepShape

_FLAT_TOKENS = 128  # a step up to so many reads the weights once and is done


class FloorAndSlope:
    """Implements `wisp.estimator.base.Estimator`."""

    drift = 1.0

    def __init__(
        self,
        floor_s: float = 0.0065,
        token_s: float = 28e-6,
        context_s: float = 30e-9,
        product_s: float = 1e-10,
        *,
        margin: float = 0.1,
    ) -> None:
        self._terms = floor_s, token_s, context_s, product_s
        self._margin = margin  # of the upper quantile, relative

    def predict_s(self, shape: StepShape) -> float:
        floor_s, token_s, context_s, product_s = self._terms
        above = max(0, shape.num_tokens - _FLAT_TOKENS)
        time_s = floor_s + token_s * above
        return time_s + context_s * shape.num_context + product_s * shape.prefill_product

    def upper_s(self, shape: StepShape) -> float:
        return (1.0 + self._margin) * self.predict_s(shape)

    def observe(self, shape: StepShape, time_s: float) -> None:
        pass
