"""The front's end, with the engine played by the test."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.fake import Fake
from wisp.core.drafts import REST, Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.engine.messages import (
    Fatal,
    Hold,
    Open,
    Snapshot,
    TakeSnapshot,
    ToEngine,
    encode,
)
from wisp.errors import ConfigError, Unavailable
from wisp.server.server_session import ServerSession
from wisp.testing.local import LocalServer


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


async def test_a_session_waits_for_its_reader() -> None:
    """It was written to its end into memory, whether anybody read it or not."""
    client = Fake()
    request = Request(prompt=[1], sampling=Sampling(max_tokens=1000, seed=0))
    slo = Slo(tokens_per_s=1, first_token_s=1)
    session = client.open(Open(session_id=7, request=request, slo=slo))
    del client.sent[:]
    verdict = Verdict(position=1, tokens=[5], directive=REST)
    for _ in range(64):
        session.put(verdict)
    assert client.sent == []
    for _ in range(3):
        session.put(verdict)
    assert client.sent == [Hold(7, held=True)]
    reading = aiter(session)
    for _ in range(34):
        await anext(reading)
    assert client.sent == [Hold(7, held=True)]
    for _ in range(3):
        await anext(reading)
    assert client.sent == [Hold(7, held=True), Hold(7, held=False)]


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


async def text(session: ServerSession) -> list[int]:
    return [token async for verdict in session for token in verdict.tokens]


async def test_an_engine_that_cannot_be_asked_whether_it_lives_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else nobody would notice when it hangs, and requests would wait for ever."""
    server = LocalServer()
    sampling = Sampling(max_tokens=5, seed=0)
    session = await server.service.generate(Request(prompt=[1], sampling=sampling))

    def fail(message: ToEngine) -> None:
        raise OSError("no file left")

    monkeypatch.setattr(server.engine, "send", fail)
    with pytest.raises(Unavailable, match="the engine has stopped"):
        await text(session)
    assert server.engine.lost.is_set()
    await server.stop()


async def test_sessions_whose_readers_are_slow_hear_of_the_engines_end_as_all_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One with much unread asks the engine to wait, even with its last word: nobody is there."""
    server = LocalServer()
    sampling = Sampling(max_tokens=1000, seed=0)
    slow, other = [
        await server.service.generate(Request(prompt=[1], sampling=sampling)) for _ in range(2)
    ]
    for _ in range(64):  # as many as may be unread
        slow._session.put(Verdict(position=1, tokens=[5], directive=REST))  # as the engine does

    def fail(message: ToEngine) -> None:
        raise OSError("nobody is there")

    monkeypatch.setattr(server.engine, "send", fail)
    server.engine.crash()
    for session in (slow, other):
        with pytest.raises(Unavailable, match="the engine has stopped"):
            await text(session)
    await server.stop()


async def test_a_local_engine_that_fails_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    server = LocalServer()

    def fail(inbox: object) -> None:
        raise NotImplementedError("torn")

    monkeypatch.setattr(server.engine.engine, "turn", fail)
    sampling = Sampling(max_tokens=5, seed=0)
    session = await server.service.generate(Request(prompt=[1], sampling=sampling))
    with pytest.raises(Unavailable, match="the engine has stopped"):
        await text(session)
    await server.stop()
