"""Virtual time: what happens next, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Events:
    """Runs callbacks in the order of their times; those of the same time in the order given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_done = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._num_added = 0

    def at(self, time_s: float, what: Callable[..., None], *arguments: Any) -> None:
        self._num_added += 1
        heapq.heappush(self._queue, (max(time_s, self.now), self._num_added, what, arguments))

    def run(self, until_s: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            self.now, _, what, arguments = heapq.heappop(queue)
            self.num_done += 1
            what(*arguments)
        self.now = until_s
