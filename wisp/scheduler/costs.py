"""The estimator as arrays: what a step costs at every size, for decisions over many tokens at once.

The estimator is additive, T = f(new tokens) + a * context + b * prefill product + s * seats + e if
some seat computes several tokens, so f sampled on a grid, the slopes and e say all; they are taken
anew as the estimator learns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wisp.core.batch import Batch
from wisp.estimator.base import Estimator
from wisp.estimator.shape import StepShape, shape_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NUM_POINTS = 64  # of the grid beyond the small sizes; multiples of 32, to meet matrix tiles
_FREE = 1.15  # a step up to so much longer than one of a single token lies on the floor
_FAR = 1_000_000  # context, product and seats at which the slopes are measured


class Curve(NamedTuple):
    """Times by tokens in the step, linear between the grid's points."""

    tokens: Floats
    times_s: Floats  # without context and seats, but as if a seat had several tokens
    context_s: float  # for each token of context
    product_s: float  # for each unit of the prefill product
    seat_s: float
    several_s: float  # what `times_s` has too much where every seat has one token

    def at(self, num_tokens: Floats | Ints | float, extra_s: Floats | float = 0.0) -> Floats:
        return np.asarray(np.interp(num_tokens, self.tokens, self.times_s) + extra_s)

    def time_s(self, shape: StepShape) -> float:
        return float(self.at(shape.num_tokens, self.extra_s(shape)))

    def extra_s(self, shape: StepShape) -> float:
        """What a step of this shape takes beside `times_s`."""
        tokens, context, product, _ = shape
        extra_s = self.context_s * context + self.product_s * product
        extra_s += self.seat_s * shape.num_seats
        return extra_s if tokens > shape.num_seats else extra_s - self.several_s

    def slope_s(self, num_tokens: float, width: float = 64.0) -> float:
        """Of one more token, averaged over the next `width` (a tile's step is not one token's)."""
        top = min(num_tokens + width, float(self.tokens[-1]))
        low = top - width
        times = np.interp((low, top), self.tokens, self.times_s)
        return float(times[1] - times[0]) / width


class Costs:
    """Expected and upper times."""

    def __init__(self, estimator: Estimator, max_step_tokens: int) -> None:
        self.estimator = estimator
        spacing = 32 * max(1, round(max_step_tokens / _NUM_POINTS / 32))
        points = [1, 2, 4, 8, 16, *range(32, max_step_tokens, spacing), max_step_tokens]
        self._grid = sorted({point for point in points if point <= max_step_tokens})
        self._countdown = 0
        self._num_observed = 0
        self.refresh()

    def observe(self, batch: Batch, step_time_s: float) -> None:
        self.estimator.observe(shape_of(batch), step_time_s)
        self._num_observed += 1
        self._countdown -= 1
        if self._countdown <= 0:
            self._countdown = min(32, self._num_observed)  # it learns most at the start
            self.refresh()

    def refresh(self) -> None:
        self.mean = _sample(self.estimator.predict_s, self._grid)
        self.upper = _sample(self.estimator.upper_s, self._grid)
        mean = self.mean
        times = mean.times_s - mean.several_s + mean.seat_s * mean.tokens  # a token for each seat
        flat = times <= _FREE * times[0]
        self.free_tokens = int(mean.tokens[flat][-1])


def _sample(time_s: Callable[[StepShape], float], grid: list[int]) -> Curve:
    times = np.array([time_s(StepShape(tokens, 0, 0.0, 0)) for tokens in grid])
    plain_s = time_s(StepShape(1, 0, 0.0, 1))
    seat_s = max(0.0, time_s(StepShape(1, 0, 0.0, 1 + _FAR)) - plain_s) / _FAR
    return Curve(
        np.array(grid, dtype=float),
        np.maximum.accumulate(times),
        max(0.0, time_s(StepShape(1, _FAR, 0.0, 1)) - plain_s) / _FAR,
        max(0.0, time_s(StepShape(1, 0, float(_FAR), 1)) - plain_s) / _FAR,
        seat_s,
        max(0.0, time_s(StepShape(1, 0, 0.0, 0)) + seat_s - plain_s),
    )
