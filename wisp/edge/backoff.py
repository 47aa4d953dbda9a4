"""Waits between attempts to reach a server."""

from __future__ import annotations

import asyncio
import random


class Backoff:
    """Waits that double, with jitter so that a fleet does not return in step."""

    # Chosen: a restarted server has its edges back within 2 s; for a whole fleet that comes back
    # see benchmarks/storm.py.
    FIRST_S, MAX_S = 0.1, 2.0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._next_s = self.FIRST_S

    async def wait(self, min_s: float = 0.0) -> None:
        """`min_s`: what the server asked for."""
        jitter = random.uniform(0.5, 1.0)
        await asyncio.sleep(max(2 * jitter * min_s, jitter * self._next_s))
        self._next_s = min(self.MAX_S, 2 * self._next_s)
