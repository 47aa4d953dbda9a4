"""The simplest target: T = floor + slope * (tokens above the floor) + context reads.

It is given, and learns nothing: what tests take for the truth.
"""

from __future__ import annotations

from wisp.estimator.base import Estimator
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape

# A step of up to so many tokens reads the weights once and is done. Chosen: about as on an H200.
_FLAT_TOKENS = 128


class FloorAndSlope(Estimator):
    def __init__(
        self,
        floor_s: float = 0.0065,
        token_s: float = 28e-6,
        context_s: float = 30e-9,
        product_s: float = 1e-10,
        *,
        margin: float = 0.1,
    ) -> None:
        """`margin`: of the upper quantile, relative."""
        self._curve = Curve(
            floor_s=floor_s,
            hinges={_FLAT_TOKENS: token_s},
            context_s=context_s,
            product_s=product_s,
        )
        self._margin = margin

    @property
    def curve(self) -> Curve:
        return self._curve

    @property
    def margin(self) -> float:
        return self._margin

    def observe(self, shape: StepShape, time_s: float) -> None:
        """It knows."""
