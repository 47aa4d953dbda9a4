"""A cancellation that comes in the same tick as the result counts: nobody goes on who was ended.

Before Python 3.12 `asyncio.wait_for` forgot it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest

from benchmarks.load.users import Bell
from tests.engine.fake import Fake
from wisp import wire
from wisp.access.gate import Caller, Gate
from wisp.core.request import Request, Sampling
from wisp.engine.messages import Snapshot
from wisp.server.service import Service
from wisp.server.servicer import WispServicer
from wisp.server.telemetry import Telemetry
from wisp.v1 import wisp_pb2 as pb

# What waits, and what brings its result about.
Begun = tuple[Coroutine[Any, Any, object], Callable[[], None]]


def user_who_was_refused() -> Begun:
    """One that lived on kept a load test from its end."""
    bell = Bell()
    return bell.wait(10.0), bell.ring


def somebody_who_looks() -> Begun:
    client = Fake()
    return client.snapshot(), lambda: client.hear(Snapshot([]))


def edge_that_leaves_as_it_comes() -> Begun:
    """Its session would have been opened, for nobody."""
    messages: asyncio.Queue[pb.EdgeMessage] = asyncio.Queue()

    async def requests() -> AsyncIterator[pb.EdgeMessage]:
        yield await messages.get()

    class Opens:
        max_sessions = 1

        def open(self, request: Request, hello: wire.Hello, caller: Caller) -> str:
            return "a session"

    servicer = WispServicer(cast(Service, Opens()), cast(Telemetry, None), Gate(), 1.0)
    request = Request(prompt=[1], sampling=Sampling(max_tokens=1, seed=0))
    opening = wire.encode_open(request, wire.Hello())
    waiting = servicer._open(requests(), Gate().caller(None))  # as `Generate` does
    return waiting, lambda: messages.put_nowait(opening)


@pytest.mark.parametrize("num_ticks", range(6))
@pytest.mark.parametrize(
    "begin", [user_who_was_refused, somebody_who_looks, edge_that_leaves_as_it_comes]
)
async def test_whoever_is_cancelled_ends(begin: Callable[[], Begun], num_ticks: int) -> None:
    body, happens = begin()
    waiting = asyncio.create_task(body)
    for _ in range(3):
        await asyncio.sleep(0)
    happens()
    for _ in range(num_ticks):
        await asyncio.sleep(0)
    was_under_way = waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() == was_under_way
