"""How many draft tokens a step should hold, and whose: a greedy knapsack without a sort."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wisp.scheduler.costs import Curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEVELS = 256  # of cumulative acceptance: a byte, as on the wire


class Drafts:
    """The draft tokens at hand, the most valuable first; equal ones in the order of their rows.

    Cumulative acceptance never rises along a row: the best tokens are a prefix of each row.
    """

    def __init__(self, cumulative: Floats) -> None:
        self._level = (cumulative * (_LEVELS - 1)).astype(np.uint8)  # 0: absent, or worth nothing
        flat = self._level.ravel()
        counts = np.bincount(flat, minlength=_LEVELS)[:0:-1]
        sums = np.bincount(flat, weights=cumulative.ravel(), minlength=_LEVELS)[:0:-1]
        self._ends = np.concatenate(([0], np.cumsum(counts)))  # tokens down to each level
        self._values = np.concatenate(([0.0], np.cumsum(sums)))
        self.num_tokens = int(self._ends[-1])

    def value(self, num_tokens: Floats | float) -> Floats:
        """Expected accepted tokens among the best `num_tokens`."""
        return np.asarray(np.interp(num_tokens, self._ends, self._values))

    def best_count(
        self, base_value: float, base_tokens: int, extra_s: float, mean: Curve, most: int
    ) -> int:
        """How many of `most` maximise (expected committed tokens) / (predicted time).

        Of ties, the most: what is free is taken.

        Value is linear between levels and time between the grid's points, so a best count lies at
        one of both kinds of ends. All are compared: time rises in steps, and greed would stop at
        the first.
        """
        grid = mean.tokens - base_tokens
        counts = np.concatenate((self._ends, grid, (most,)))
        counts = counts[(counts >= 0) & (counts <= most)]
        values = base_value + self.value(counts)
        rates = values / mean.at(counts + float(base_tokens), extra_s)
        best = float(rates.max())
        return int(counts[rates >= best * (1.0 - 1e-9)].max())

    def by_row(self, num_tokens: int) -> Ints:
        """Of each row, how many are among the best `num_tokens`."""
        last = int(np.searchsorted(self._ends, num_tokens))  # the level in which it ends
        if last == 0:
            return np.zeros(len(self._level), dtype=np.int64)
        level = _LEVELS - last
        taken = self._level > level
        rest = num_tokens - int(self._ends[last - 1])
        equal = np.flatnonzero(self._level == level)[:rest]
        taken.ravel()[equal] = True
        found: Ints = taken.sum(axis=1)
        return found
