"""The front's end of an engine that the test plays."""

from __future__ import annotations

import asyncio

from wisp.engine.client import EngineClient
from wisp.engine.messages import FromEngine, ToEngine
from wisp.testing.clock import VirtualClock


class Fake(EngineClient):
    """Keeps what it would send."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.sent: list[ToEngine] = []
        self.said: asyncio.Future[FromEngine] = asyncio.get_running_loop().create_future()
        super().__init__(clock=self.clock)

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    async def _receive(self) -> FromEngine:
        return await self.said

    def hear(self, message: FromEngine) -> None:
        """As if the engine had sent it."""
        self._handle(message)

    async def first_words(self) -> FromEngine:
        """What a start waits for."""
        return await self._first_words()
