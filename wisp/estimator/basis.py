"""The terms of a step's time, as columns of a non-negative least squares problem.

T = d + f(new tokens) + a * context + b * prefill product + s * seats + e * [some seat computes
several tokens], every weight >= 0. f is a sum of hinges max(0, n - knot), and of a step for every
tile of 128 tokens that a matrix product begins: monotone by construction. The last two terms exist
only where the number of seats is known; on vLLM they are the larger part of the error without them
(a seat's own share of host and attention, and the path that pure decoding does not take).
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from wisp.estimator.base import StepShape
from wisp.estimator.shape import seats_of

Floats = NDArray[np.float64]

TILE = 128  # tokens
_KNOTS: Floats = np.array([0, 64, 128, 256, 512, 1024, 2048, 4096], dtype=np.float64)
_TILES: Floats = np.arange(TILE, 2049, TILE, dtype=np.float64)
_NUM_OTHERS = 5  # the constant, context, product, seats, several tokens
_FIRST_HINGE = _NUM_OTHERS
_FIRST_STEP = _FIRST_HINGE + len(_KNOTS)
NUM_COLUMNS = _FIRST_STEP + len(_TILES)
STEPS = slice(_FIRST_STEP, NUM_COLUMNS)
# Units of the columns, so that every weight is some milliseconds: 1, 1e5 tokens of context, 1e7
# units of product, 100 seats, 1, 1000 tokens above a knot, 1 for each tile.
UNITS: Floats = np.concatenate(
    ([1.0, 1e5, 1e7, 1e2, 1.0], np.full(len(_KNOTS), 1e3), np.ones(len(_TILES)))
)
# What a target is taken to be like until it was seen (8 billion parameters on an H200); its first
# steps set the scale. In ms per unit, by column.
PRIOR: Floats = np.zeros(NUM_COLUMNS)
PRIOR[:5] = (6.5, 3.0, 1.0, 2.0, 0.3)
PRIOR[_FIRST_HINGE + 2] = 26.0
_BREAKS = sorted({*_KNOTS.tolist(), *_TILES.tolist()})


def columns(shape: StepShape) -> Floats:
    """[NUM_COLUMNS] of one step; without a number of seats those two columns are 0."""
    num_tokens, context, product = shape
    row = np.empty(NUM_COLUMNS)
    num_seats = seats_of(shape)
    seats = num_seats or 0
    several = num_seats is not None and num_tokens > num_seats
    row[:_NUM_OTHERS] = (1.0, context, product, seats, several)
    np.maximum(num_tokens - _KNOTS, 0.0, out=row[_FIRST_HINGE:_FIRST_STEP])
    np.greater(num_tokens, _TILES, out=row[_FIRST_STEP:])
    row /= UNITS
    return row


class Curve:
    """The same for one set of weights, as a table: a prediction takes a microsecond or two."""

    def __init__(self, weights: Floats) -> None:
        rates = weights / UNITS / 1e3  # seconds
        self._floor_s, self._context_s, self._product_s, self._seat_s, self._several_s = rates[
            :_NUM_OTHERS
        ].tolist()
        hinges = dict(zip(_KNOTS.tolist(), rates[_FIRST_HINGE:_FIRST_STEP].tolist(), strict=True))
        steps = dict(zip(_TILES.tolist(), rates[_FIRST_STEP:].tolist(), strict=True))
        self._starts_s: list[float] = []  # f just above each break
        self._slopes_s: list[float] = []
        value = slope = last = 0.0
        for point in _BREAKS:
            value += slope * (point - last) + steps.get(point, 0.0)
            slope += hinges.get(point, 0.0)
            last = point
            self._starts_s.append(value)
            self._slopes_s.append(slope)

    def __call__(self, shape: StepShape) -> float:
        """Seconds."""
        num_tokens, context, product = shape
        time_s: float = self._floor_s + self._context_s * context + self._product_s * product
        if num_tokens > 0:
            piece = bisect_left(_BREAKS, num_tokens) - 1
            time_s += self._starts_s[piece]
            time_s += self._slopes_s[piece] * (num_tokens - _BREAKS[piece])
        num_seats = seats_of(shape)
        if num_seats is not None:
            time_s += self._seat_s * num_seats
            if num_tokens > num_seats:
                time_s += self._several_s
        return time_s
