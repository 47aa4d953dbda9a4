"""How many draft tokens a step should hold, and whose: a greedy knapsack without a sort."""

from __future__ import annotations

import numpy as np

from wisp.core.table import Floats, Ints
from wisp.estimator.curve import Curve
from wisp.estimator.shape import StepShape

# Levels of cumulative acceptance: a byte, as the protocol has it. Tokens of one level are alike.
_LEVELS = 256
# Rates that differ by less, relative, are ties. Chosen: above rounding, below any real difference.
_SAME = 1e-9


class DraftPool:
    """The draft tokens at hand, the most valuable first; equal ones in the order of their rows.

    Cumulative acceptance never rises along a row: the best tokens are a prefix of each row.
    """

    def __init__(self, cumulative: Floats, worth: Floats) -> None:
        """cumulative: [rows, drafts]; worth: [rows], of an accepted token, at least 1."""
        value = cumulative * worth[:, None]
        scale = (_LEVELS - 1) / worth.max(initial=1.0)
        self._level = (value * scale).astype(np.uint8)  # 0: absent, or worth nothing
        flat = self._level.ravel()
        counts = np.bincount(flat, minlength=_LEVELS)[:0:-1]
        worths = np.bincount(flat, weights=value.ravel(), minlength=_LEVELS)[:0:-1]
        sums = np.bincount(flat, weights=cumulative.ravel(), minlength=_LEVELS)[:0:-1]
        self._ends = np.concatenate(([0], np.cumsum(counts)))  # tokens down to each level
        self._values = np.concatenate(([0.0], np.cumsum(worths)))
        self._accepted = np.concatenate(([0.0], np.cumsum(sums)))
        self.num_tokens = int(self._ends[-1])

    def value(self, num_tokens: Floats | float) -> Floats:
        """What the accepted ones among the best `num_tokens` are expected to be worth."""
        return np.asarray(np.interp(num_tokens, self._ends, self._values))

    def num_accepted(self, num_tokens: int) -> float:
        """Expected accepted tokens among the best `num_tokens`."""
        return float(np.interp(num_tokens, self._ends, self._accepted))

    def best_count(self, shape: StepShape, value: float, curve: Curve, max_count: int) -> int:
        """How many, of `max_count` at most, maximise (worth of expected tokens) / (expected time).

        `shape`: of the step without drafts. `value`: what that commits is worth. Of ties, the most:
        what is free is taken. Value is linear between levels and time between the curve's breaks,
        so a best count lies at an end of one kind or the other. All are compared: time rises in
        steps, and greed would stop at the first.
        """
        counts = np.concatenate((self._ends, curve.breaks - shape.num_tokens, (max_count,)))
        counts = counts[(counts >= 0) & (counts <= max_count)]
        rest_s = curve.rest_s(shape.with_drafts(1)) + curve.context_s * (counts - 1)
        rest_s[counts == 0] = curve.rest_s(shape)  # perhaps no seat has several tokens then
        rates = (value + self.value(counts)) / (curve.tokens_s(shape.num_tokens + counts) + rest_s)
        best = float(rates.max())
        return int(counts[rates >= best * (1.0 - _SAME)].max())

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
