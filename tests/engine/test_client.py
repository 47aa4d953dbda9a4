"""The front's end, with the engine played by the test."""

from __future__ import annotations

import asyncio

import pytest

from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.engine.client import EngineClient
from wisp.engine.messages import (
    Fatal,
    FromEngine,
    Open,
    Snapshot,
    TakeSnapshot,
    ToEngine,
    encode,
)
from wisp.errors import ConfigError, Unavailable
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


async def test_the_engine_is_asked_once_for_all_and_once_a_second() -> None:
    client = Fake()
    asking = [asyncio.create_task(client.snapshot()) for _ in range(3)]
    await asyncio.sleep(0)
    assert client.sent == [TakeSnapshot()]
    first = Snapshot([])
    client.hear(first)
    assert [await task is first for task in asking] == [True] * 3
    client.clock.now = 0.9
    assert await client.snapshot() is first
    assert len(client.sent) == 1
    client.clock.now = 1.0
    again = asyncio.create_task(client.snapshot())
    await asyncio.sleep(0)
    assert len(client.sent) == 2
    second = Snapshot([])
    client.hear(second)
    assert await again is second


async def test_a_session_that_cannot_be_sent_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Fake()
    monkeypatch.setattr(client, "send", encode)
    sampling = Sampling(max_tokens=1, seed=0, top_k=2**64)
    request = Request(prompt=[1], sampling=sampling)
    with pytest.raises(OverflowError):
        client.open(Open(session_id=1, request=request, slo=Slo(tokens_per_s=1, first_token_s=1)))
    assert client.num_sessions == 0
    assert client.idle.is_set()


async def test_who_gives_up_waiting_takes_the_answer_from_nobody() -> None:
    client = Fake()
    impatient, patient = (asyncio.create_task(client.snapshot()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    client.hear(Snapshot([]))
    assert await patient == Snapshot([])


async def test_an_engine_that_is_gone_is_not_asked() -> None:
    client = Fake()
    client.lost.set()
    with pytest.raises(Unavailable, match="restart wisp-server"):
        await client.snapshot()
    assert client.sent == []


async def test_why_an_engine_could_not_start_is_heard_after_its_end() -> None:
    client = Fake()
    client.lost.set()  # the process is gone before the socket has delivered what it said
    hearing = asyncio.create_task(client.first_words())
    for _ in range(5):
        await asyncio.sleep(0)
    client.said.set_result(Fatal("no such model"))
    assert await hearing == Fatal("no such model")


async def test_an_engine_that_ends_without_a_word_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wisp.engine.client._LAST_WORDS_S", 0.0)
    client = Fake()
    client.lost.set()
    with pytest.raises(ConfigError, match="ended while it loaded"):
        await client.first_words()
