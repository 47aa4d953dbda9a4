"""How far predicted probabilities are from what then happened."""

from __future__ import annotations

import math
from collections import deque

# The bins of equal width that predictions are sorted into. Chosen: of 2,000 labels each bin of ten
# still holds some 200, so that what it shows is seldom noise.
NUM_BINS = 10


class Calibration:
    """Expected calibration error over the last `num_recent` labels.

    ECE = sum over bins of (labels in bin / labels) * |mean prediction - share that was true|, with
    bins of equal width (Guo et al., "On Calibration of Modern Neural Networks", 2017). Kept as one
    running sum of (prediction - truth) a bin, so a label costs the same whatever `num_recent` is.
    """

    def __init__(self, num_recent: int = 2000) -> None:
        self._recent: deque[tuple[int, float]] = deque()
        self._num_recent = num_recent
        self._excess = [0.0] * NUM_BINS

    def __len__(self) -> int:
        return len(self._recent)

    @property
    def error(self) -> float:
        """0 to 1; NaN before the first label."""
        if not self._recent:
            return math.nan
        return sum(map(abs, self._excess)) / len(self._recent)

    def add(self, predicted: float, happened: bool) -> None:
        index = min(NUM_BINS - 1, int(predicted * NUM_BINS))
        excess = predicted - happened
        self._excess[index] += excess
        self._recent.append((index, excess))
        if len(self._recent) > self._num_recent:
            index, excess = self._recent.popleft()
            self._excess[index] -= excess
