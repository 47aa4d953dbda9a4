"""Figures of late: sums that forget."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

# How far the figures "of late" look back. Chosen: a person who watches sees a change within it, and
# a few hundred steps make a steady mean.
HORIZON_S = 10.0
# The grain in which a sliding window forgets. Chosen: forty sums for each of a thousand sessions.
BUCKET_S = 0.25


class SlidingWindow:
    """Sums of what happened in the last `HORIZON_S` seconds."""

    def __init__(self, num_sums: int, now: float) -> None:
        self._start_s = now
        self._zeros = (0.0,) * num_sums
        self._buckets: deque[tuple[int, list[float]]] = deque()

    def add(self, now: float, *amounts: float) -> None:
        bucket = int(now / BUCKET_S)
        if not self._buckets or self._buckets[-1][0] < bucket:
            self._drop(now)
            self._buckets.append((bucket, list(self._zeros)))
        sums = self._buckets[-1][1]
        for index, amount in enumerate(amounts):
            sums[index] += amount

    def sums(self, now: float) -> Sequence[float]:
        self._drop(now)
        rows = [self._zeros, *(sums for _, sums in self._buckets)]
        return [sum(column) for column in zip(*rows, strict=True)]

    def per_s(self, now: float) -> Sequence[float]:
        elapsed_s = seconds_seen(self._start_s, now)
        return [total / elapsed_s for total in self.sums(now)]

    def _drop(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= (now - HORIZON_S) / BUCKET_S:
            self._buckets.popleft()


def seconds_seen(start_s: float, now: float) -> float:
    """How much of the last `HORIZON_S` seconds there was."""
    return min(HORIZON_S, max(BUCKET_S, now - start_s))
