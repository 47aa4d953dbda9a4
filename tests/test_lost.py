"""What fails beside requests, where nobody waits for it, is heard of by all whom it concerns."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn

from tests.deploy.scripted import build
from wisp.config import EdgeConfig, Listen, ServerConfig
from wisp.edge.link import Link
from wisp.edge.main import serve as serve_edge
from wisp.server.main import serve as serve_server

ANY = Listen(port=0)


async def torn(*_: object) -> None:
    raise RuntimeError("nobody thought of this")


async def test_an_edge_that_cannot_watch_its_connections_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would draft on for a target that may be another one by now."""
    monkeypatch.setattr(Link, "watch", torn)
    async with asyncio.timeout(60):
        assert await serve_edge(EdgeConfig(server="127.0.0.1:1", http=ANY)) == 1
    assert "the connections are not watched any more" in caplog.text


async def test_an_edge_whose_http_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "main_loop", torn)
    async with asyncio.timeout(60):
        assert await serve_edge(EdgeConfig(server="127.0.0.1:1", http=ANY)) == 1


async def test_a_server_whose_http_fails_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn.Server, "main_loop", torn)
    async with asyncio.timeout(60):
        assert await serve_server(ServerConfig(http=ANY, grpc=ANY), build) == 1
    assert "HTTP is not answered any more" in caplog.text
