"""The terms of a step's time: as columns of a least squares problem, and as an exact function.

T = d + f(new tokens) + a * context + b * prefill product + s * seats + e * [some seat computes
several tokens], every weight >= 0. f is a sum of hinges max(0, n - knot) and a step behind the
first tile of tokens, which is within one of them: monotone by construction. Without the last two
terms the error on vLLM is far larger (a seat's own share of host and attention, and the path that
pure decoding does not take). What was tried for f: docs/measurements/estimator.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wisp.estimator.shape import StepShape

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Where the slope of f may rise, in tokens. Chosen: powers of 2, denser where the floor ends.
_KNOTS: Floats = np.array([0, 64, 128, 256, 512, 1024, 2048, 4096], dtype=np.float64)
# Tokens behind which matrix products take another tile. Chosen: as measured on an H200, where a
# step of 72 takes 1.5 ms more than one of 64, and one of 128 no more than one of 72
# (docs/measurements/estimator.md).
_TILE = 64.0
# Columns that do not depend on the tokens alone: by definition of T five, the constant, context,
# product, seats, several.
_NUM_OTHERS = 5
_FIRST_HINGE = _NUM_OTHERS
_STEP = _FIRST_HINGE + len(_KNOTS)
# By definition: those, the hinges and the step.
NUM_COLUMNS = _STEP + 1
# Units of the columns, so that every weight is some milliseconds: 1, 1e5 tokens of context, 1e7
# units of product, 100 seats, 1, 1000 tokens above a knot, 1.
UNITS: Floats = np.concatenate(([1.0, 1e5, 1e7, 1e2, 1.0], np.full(len(_KNOTS), 1e3), [1.0]))
# What a target is taken to be like until it was seen: about what 8 billion parameters took on an
# H200 (benchmarks/data/h200_qwen3_8b_shape.csv), in ms per unit, by column. The first steps of a
# target set the scale.
PRIOR: Floats = np.zeros(NUM_COLUMNS)
PRIOR[:5] = (6.5, 3.0, 1.0, 2.0, 0.3)  # the columns before f, as measured, see above
PRIOR[_FIRST_HINGE + 2] = 26.0  # above 128 tokens, as measured, see above


def columns(shape: StepShape) -> Floats:
    """[NUM_COLUMNS] of one step, in `UNITS`."""
    num_tokens, context, product, seats = shape
    row = np.empty(NUM_COLUMNS)
    row[:_NUM_OTHERS] = (1.0, context, product, seats, num_tokens > seats)
    np.maximum(num_tokens - _KNOTS, 0.0, out=row[_FIRST_HINGE:_STEP])
    row[_STEP] = num_tokens > _TILE
    row /= UNITS
    return row


class Curve:
    """The time of every step, in seconds: a table for f, a slope for each other term.

    It is exact, and never changes. A single prediction takes a microsecond or two.
    """

    def __init__(
        self,
        *,
        floor_s: float,
        hinges: Mapping[float, float],
        context_s: float = 0.0,
        product_s: float = 0.0,
        seat_s: float = 0.0,
        several_s: float = 0.0,
    ) -> None:
        """All times are >= 0, so that no more work takes less time.

        `hinges`: by number of tokens, what each token above it takes more. `context_s`, `product_s`
        and `seat_s`: for each unit of the shape's fields; `several_s`: if some seat computes
        several tokens.
        """
        self._floor_s = floor_s
        self.context_s = context_s
        self._product_s = product_s
        self.seat_s = seat_s
        self._several_s = several_s
        self._breaks = sorted({0.0, *hinges})  # f is linear between them
        self._starts_s: list[float] = []  # f at each break
        self._slopes_s: list[float] = []
        value = slope = last = 0.0
        for point in self._breaks:
            value += slope * (point - last)
            slope += hinges.get(point, 0.0)
            last = point
            self._starts_s.append(value)
            self._slopes_s.append(slope)
        self._table: Floats = np.array([self._breaks, self._starts_s, self._slopes_s])

    @property
    def breaks(self) -> Floats:
        """Numbers of tokens between which f is linear; ascending."""
        breaks: Floats = self._table[0]
        return breaks

    def time_s(self, shape: StepShape) -> float:
        num_tokens, context, product, num_seats = shape
        time_s = self._floor_s + self.context_s * context + self._product_s * product
        piece = bisect_right(self._breaks, num_tokens) - 1
        time_s += self._starts_s[piece]
        time_s += self._slopes_s[piece] * (num_tokens - self._breaks[piece])
        time_s += self.seat_s * num_seats
        if num_tokens > num_seats:
            time_s += self._several_s
        return time_s

    def tokens_s(self, num_tokens: Floats | Ints) -> Floats:
        """f, the tokens' part of the time, of any array of numbers of tokens."""
        breaks, starts_s, slopes_s = self._table
        piece = np.searchsorted(breaks, num_tokens, side="right") - 1
        return np.asarray(starts_s[piece] + slopes_s[piece] * (num_tokens - breaks[piece]))

    def _tokens_s(self, num_tokens: int) -> float:
        """`tokens_s` of one number; an array of one takes ten times as long."""
        piece = bisect_right(self._breaks, num_tokens) - 1
        return self._starts_s[piece] + self._slopes_s[piece] * (num_tokens - self._breaks[piece])

    def rest_s(self, shape: StepShape) -> float:
        """What a step of this shape takes beside f."""
        num_tokens, context, product, num_seats = shape
        rest_s = self._floor_s + self.context_s * context + self._product_s * product
        rest_s += self.seat_s * num_seats
        return rest_s + self._several_s if num_tokens > num_seats else rest_s

    def slope_s(self, num_tokens: int, width: int = 64) -> float:
        """Of one more token, averaged over the next `width`: the slope changes within them."""
        return (self._tokens_s(num_tokens + width) - self._tokens_s(num_tokens)) / width


def curve_of(weights: Floats) -> Curve:
    """`weights`: [NUM_COLUMNS], ms per unit of each column."""
    rates = weights / UNITS / 1e3  # seconds
    floor_s, context_s, product_s, seat_s, several_s = rates[:_NUM_OTHERS].tolist()
    hinges = dict(zip(_KNOTS.tolist(), rates[_FIRST_HINGE:_STEP].tolist(), strict=True))
    step_s = float(rates[_STEP])
    for point, slope_s in ((_TILE, step_s), (_TILE + 1.0, -step_s)):
        hinges[point] = hinges.get(point, 0.0) + slope_s
    return Curve(
        floor_s=floor_s,
        hinges=hinges,
        context_s=context_s,
        product_s=product_s,
        seat_s=seat_s,
        several_s=several_s,
    )
