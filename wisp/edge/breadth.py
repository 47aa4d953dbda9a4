"""How many sequences the drafter takes in one step: measured, not set. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

# Steps of one size that are remembered; their median is the cost. Chosen: so few that a device that
# heats up is followed, and so many that a prompt among them does not count.
_REMEMBERED = 15
# What takes no time by a coarse clock takes this much, in seconds. Chosen: less than any step.
_TICK_S = 1e-9


class Breadth:
    """The cost of a drafter's step by its number of sequences, and what size is worth most."""

    def __init__(self) -> None:
        self._times_s: dict[int, deque[float]] = {}

    def observe(self, num_sequences: int, time_s: float) -> None:
        times_s = self._times_s.setdefault(num_sequences, deque(maxlen=_REMEMBERED))
        times_s.append(time_s)

    def cost_s(self, num_sequences: int) -> float | None:
        """Of a step; a size not seen yet is as costly for each sequence as the next smaller one.

        None: nothing is known.
        """
        if found := self._times_s.get(num_sequences):
            return median(found)
        smaller = max((size for size in self._times_s if size < num_sequences), default=None)
        if smaller is None:
            return None
        return median(self._times_s[smaller]) * num_sequences / smaller

    def best(self, chances: Sequence[float], num_needed: int = 1) -> int:
        """How many to draft behind in this step, for the most expected tokens a second.

        chances: that a draft token is on the target's path so far, the likeliest first behind the
        `num_needed` that are in the step in any case.
        """
        best, best_rate, total = num_needed, 0.0, 0.0
        for size, chance in enumerate(chances, 1):
            total += chance
            if size < num_needed:
                continue
            cost_s = self.cost_s(size)
            if cost_s is None:
                break
            rate = total / max(cost_s, _TICK_S)
            if rate > best_rate:
                best, best_rate = size, rate
        return best
