"""Requests that are read and made into tokens: fairly, however many one caller sends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wisp.errors import Overloaded

# Bytes of bodies that one caller may have here at once, until they are tokens. Chosen: forty of the
# longest ones of a model with 128 Ki tokens of context.
MAX_HELD_BYTES = 2**27


class Turns:
    """One request of each caller's at a time is prepared: loop and tokenizer are everybody's.

    Nobody waits for more than one of each of the others'; what a caller has sent beyond that waits
    for its own.
    """

    def __init__(self, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_held_bytes = max_held_bytes
        self._locks: dict[str, asyncio.Lock] = {}
        self._num_inside: Counter[str] = Counter()  # with a body that is read, waits or is prepared
        self._num_bytes: Counter[str] = Counter()

    @asynccontextmanager
    async def inside(self, caller: str) -> AsyncIterator[Turn]:
        """While a request of the caller's is read and prepared."""
        turn = Turn(self, caller)
        self._num_inside[caller] += 1
        try:
            yield turn
        finally:
            self._num_bytes[caller] -= turn.num_bytes
            self._num_inside[caller] -= 1
            if not self._num_inside[caller]:
                del self._num_inside[caller], self._num_bytes[caller]
                self._locks.pop(caller, None)

    def hold(self, turn: Turn, num_bytes: int) -> None:
        if self._num_bytes[turn.caller] + num_bytes > self._max_held_bytes:
            raise Overloaded(
                f"more than {self._max_held_bytes >> 20} MiB of your requests are under way: send "
                "fewer at once"
            )
        self._num_bytes[turn.caller] += num_bytes
        turn.num_bytes += num_bytes

    def lock(self, caller: str) -> asyncio.Lock:
        """First come, first served."""
        return self._locks.setdefault(caller, asyncio.Lock())


class Turn:
    """Of one request."""

    def __init__(self, turns: Turns, caller: str) -> None:
        self.caller = caller
        self.num_bytes = 0
        self._turns = turns

    def hold(self, num_bytes: int) -> None:
        """More of the body is here. Raises Overloaded if that is too much."""
        self._turns.hold(self, num_bytes)

    def comes(self) -> asyncio.Lock:
        """Hold it while the request is prepared."""
        return self._turns.lock(self.caller)
