"""The front's end, with the engine played by the test."""

from __future__ import annotations

import asyncio

import pytest

from wisp.engine.client import EngineClient
from wisp.engine.messages import Snapshot, TakeSnapshot, ToEngine
from wisp.errors import Unavailable


class Fake(EngineClient):
    """Keeps what it would send."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[ToEngine] = []
        super().__init__(clock=lambda: self.now)

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)


async def test_the_engine_is_asked_once_for_all_and_once_a_second() -> None:
    client = Fake()
    asking = [asyncio.create_task(client.snapshot()) for _ in range(3)]
    await asyncio.sleep(0)
    assert client.sent == [TakeSnapshot()]
    first = Snapshot([])
    client._handle(first)
    assert [await task is first for task in asking] == [True] * 3
    client.now = 0.9
    assert await client.snapshot() is first
    assert len(client.sent) == 1
    client.now = 1.0
    again = asyncio.create_task(client.snapshot())
    await asyncio.sleep(0)
    assert len(client.sent) == 2
    second = Snapshot([])
    client._handle(second)
    assert await again is second


async def test_who_gives_up_waiting_takes_the_answer_from_nobody() -> None:
    client = Fake()
    impatient, patient = (asyncio.create_task(client.snapshot()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    client._handle(Snapshot([]))
    assert await patient == Snapshot([])


async def test_an_engine_that_is_gone_is_not_asked() -> None:
    client = Fake()
    client.lost.set()
    with pytest.raises(Unavailable, match="restart wisp-server"):
        await client.snapshot()
    assert client.sent == []
