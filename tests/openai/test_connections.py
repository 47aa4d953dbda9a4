"""Connections that do not go on: none is held for ever, and none shuts the others out."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.waiting import wait_on_the_loop
from wisp.config import Listen
from wisp.openai import body
from wisp.openai.http_front import HttpFront
from wisp.openai.protocol import max_connections
from wisp.openai.routes import create_app
from wisp.testing.scripted_backend import ScriptedBackend

WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving(app: Any, **limits: Any) -> AsyncIterator[HttpFront]:
    front = HttpFront(app, Listen(port=0), **limits)
    front.start()
    try:
        yield front
    finally:
        await front.stop()


async def connect(front: HttpFront) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", front.port)


async def is_served(front: HttpFront) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{front.port}/")).text == "hello"


async def test_half_a_head_is_not_waited_for() -> None:
    async with serving(hello, head_timeout_s=0.2) as front:
        for whole, half in ((b"", b""), (b"", b"GET / HTTP/1.1\r\n"), (WHOLE, b"GET / HT")):
            reader, writer = await connect(front)
            if whole:
                writer.write(whole)
                await reader.readuntil(b"hello")
            writer.write(half)
            async with asyncio.timeout(5):
                with pytest.raises((ConnectionResetError, EOFError)):
                    await _read_all(reader)
            writer.close()
        assert await is_served(front)


async def _read_all(reader: asyncio.StreamReader) -> None:
    await reader.read()
    raise EOFError


async def test_a_request_in_time_is_answered_however_long_the_answer_takes() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await hello(scope, receive, send)

    async with serving(slow, head_timeout_s=0.1) as front:
        assert await is_served(front)


async def test_beyond_the_most_connections_new_ones_are_closed_and_old_ones_served() -> None:
    async with serving(hello, max_connections=8, head_timeout_s=1.0) as front:
        held = [await connect(front) for _ in range(40)]
        await asyncio.sleep(0)
        closed = 0
        for reader, _ in held:
            try:
                async with asyncio.timeout(0.05):
                    closed += not await reader.read(1)
            except ConnectionResetError:
                closed += 1
            except TimeoutError:
                pass
        assert closed == 36  # one address has half of all connections at most
        _, writer = held[0]
        writer.write(WHOLE)
        assert b"200 OK" in await held[0][0].read(100)
        for _, writer in held:
            writer.close()


async def test_where_no_files_are_left_the_log_stays_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio logs a trace for each connection that it may accept at a time: 29 MB in 25 s."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(hello) as front:
        assert await is_served(front)
        clients = [socket.socket() for _ in range(40)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 1, hard))
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", front.port))  # they wait in the backlog
            await wait_on_the_loop(lambda: bool(caplog.records), "a connection is refused")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "out of system resource" in caplog.text
        assert len(caplog.records) <= 8
        for client in clients:
            client.close()


def test_connections_leave_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 1000))
    assert max_connections() == 372  # and as many of gRPC


async def test_an_answer_that_nobody_reads_is_given_up(backend: ScriptedBackend) -> None:
    left = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(10_000):
                chunk = {"type": "http.response.body", "body": b"x" * 10_000, "more_body": True}
                await send(chunk)
            await receive()
            await receive()
        finally:
            left.set()

    async with serving(endless, write_timeout_s=0.3) as front:
        _, writer = await connect(front)
        writer.write(WHOLE)
        async with asyncio.timeout(20):
            await left.wait()
        writer.close()


async def test_half_a_body_is_not_waited_for(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT_S", 0.2)
    async with serving(create_app(backend)) as front:
        reader, writer = await connect(front)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n"
            b'content-type: application/json\r\n\r\n{"model": '
        )
        async with asyncio.timeout(5):
            answer = await reader.read(2000)
        assert b"408" in answer
        assert b"did not come within" in answer
        writer.close()


async def test_a_front_that_fails_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(server: uvicorn.Server) -> None:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(uvicorn.Server, "main_loop", fail)
    async with serving(hello) as front, asyncio.timeout(10):
        await front.lost.wait()
    assert "HTTP is not answered any more" in caplog.text
