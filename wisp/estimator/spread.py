"""How far steps stray from their predictions: the upper quantile, and the alarm when it grows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from msgspec import Struct

from wisp.core.smoothing import smoothed

# Share of steps that keep below the upper bound. Chosen: as the share of attained promises by which
# capacity is measured.
_QUANTILE = 0.95
# Residuals from which the quantile is taken. Chosen: 25 or so of them lie above it, and what was an
# hour ago is gone.
_NUM_KEPT = 512
# Residuals below which a quantile of 95 % cannot be seen: by definition 1 / (1 - _QUANTILE).
_ENOUGH = 20
# Relative margin until then. Chosen: large, as the model is the prior's or nearly so.
_COLD_MARGIN = 0.25
# Then it is this many times the largest residual seen, if that is more. Chosen: half as much again.
_COLD_FACTOR = 1.5
# Least relative margin. Chosen: two runs of the same step differ by about 2 %, see
# docs/measurements/estimator.md.
_MIN_MARGIN = 0.02
# Steps over which the recent error is averaged. Chosen: a second or so of steps.
_RECENT = 32
# Steps over which the long-run error is averaged. Chosen: 30 times that, to be compared with it.
_LONG = 1000
# Most that one residual counts in the means. Chosen: a single hiccup raises no alarm.
_MAX_ERROR = 0.5
# Most that it counts in the long-run mean, in units of that mean. Chosen: else a change would
# become the rule before it is noticed.
_MAX_GROWTH = 2.0
# Least long-run error. Chosen: where steps are known to 2 %, a second of prompts after a minute of
# decoding is off by 6 to 13 %, and that is the same target (an H200, 32B shape, nine servers).
_MIN_ERROR = 0.05
# Residuals between two looks at the quantile. Chosen: it moves little in fewer.
_PERIOD = 8


class SpreadState(Struct, frozen=True):
    residuals: list[float]
    recent: float
    long: float


class Spread:
    """Relative residuals, time / prediction - 1, of predictions made before the step was known."""

    def __init__(self) -> None:
        self._ring = np.zeros(_NUM_KEPT)
        self._num_seen = 0
        self._long = 0.0
        self.recent = 0.0  # mean absolute residual of the last steps
        self.margin = _COLD_MARGIN  # 95 % of steps take at most (1 + margin) * prediction

    @property
    def drift(self) -> float:
        """The recent error against the long-run one: about 1 while the target stays the same, and
        less where the long-run one is below the least."""
        return self.recent / max(self._long, _MIN_ERROR)

    def note(self, residual: float) -> None:
        self._ring[self._num_seen % _NUM_KEPT] = residual
        self._num_seen += 1
        error = min(_MAX_ERROR, abs(residual))
        self.recent = smoothed(self.recent, error, 1.0 / min(_RECENT, self._num_seen))
        if self._num_seen > _RECENT:
            error = min(error, _MAX_GROWTH * max(self._long, _MIN_ERROR))
        self._long = smoothed(self._long, error, 1.0 / min(_LONG, self._num_seen))
        if self._num_seen % _PERIOD == 0 or self._num_seen <= _ENOUGH:
            self.margin = self._margin()

    def note_all(self, residuals: Iterable[float]) -> None:
        """In any order that is alike throughout: only the last ones are kept."""
        for residual in residuals:
            self.note(residual)
        self.margin = self._margin()

    def _margin(self) -> float:
        """The quantile, two standard errors of its rank above: with few residuals it is higher."""
        kept = self._ring[: min(self._num_seen, _NUM_KEPT)]
        num = len(kept)
        if num < _ENOUGH:
            return max(_COLD_MARGIN, _COLD_FACTOR * float(kept.max(initial=0.0)))
        rank = _QUANTILE * num + 2.0 * math.sqrt(_QUANTILE * (1.0 - _QUANTILE) * num)
        index = min(num - 1, math.ceil(rank) - 1)
        return max(_MIN_MARGIN, float(np.partition(kept, index)[index]))

    def state(self) -> SpreadState:
        first = self._num_seen % _NUM_KEPT if self._num_seen > _NUM_KEPT else 0
        oldest_first = np.roll(self._ring, -first)[: min(self._num_seen, _NUM_KEPT)]
        return SpreadState(oldest_first.tolist(), self.recent, self._long)

    @classmethod
    def restore(cls, state: SpreadState) -> Spread:
        spread = cls()
        spread.note_all(state.residuals[-_NUM_KEPT:])
        spread.recent, spread._long = state.recent, state.long
        return spread
