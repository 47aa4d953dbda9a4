"""What stands around all routes: ids of requests, their lines in the log, CORS."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from wisp.config import ApiSettings
from wisp.logs import REQUEST_ID, json_line, request_id
from wisp.openai.middleware import surrounded
from wisp.openai.routes import create_app
from wisp.server.server_metrics import ServerMetrics
from wisp.testing.scripted_backend import ScriptedBackend


@pytest.fixture
async def client(backend: ScriptedBackend) -> AsyncIterator[httpx.AsyncClient]:
    app = surrounded(create_app(backend), ApiSettings(cors_origins=["https://app.example"]))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


async def test_a_request_keeps_its_id_or_gets_one(client: httpx.AsyncClient) -> None:
    mine = await client.get("/health", headers={"x-request-id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    others = [await client.get(path) for path in ("/health", "/nowhere")]
    ids = [answer.headers["x-request-id"] for answer in others]
    assert len(set(ids)) == 2
    for bad in ("two words", "x" * 129, "line\nbreak"):
        assert request_id(bad) != bad


async def test_each_request_has_one_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await client.get("/nowhere", headers={"x-request-id": "mine-1"})
    (line,) = [r for r in caplog.records if r.name == "wisp.access_log"]
    assert line.getMessage().startswith("GET /nowhere 404 ")


async def test_what_a_client_chose_stays_within_its_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A path of 60 KB was logged whole, and one with %0A began a line of its own."""
    with caplog.at_level(logging.INFO):
        await client.get("/x%0A2026-01-01 wisp.access.gate INFO all keys revoked")
        await client.get("/" + "x" * 60_000)
    lines = [r.getMessage() for r in caplog.records if r.name == "wisp.access_log"]
    assert lines[0].startswith("GET /x?2026-01-01 wisp")
    assert len(lines[1]) < 300


async def test_requests_are_counted_by_route_and_status(backend: ScriptedBackend) -> None:
    metrics = ServerMetrics()
    app = surrounded(create_app(backend), ApiSettings(), metrics.http_requests)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://here"
    ) as client:
        for path in ("/health", "/health", "/nowhere", "/anywhere"):
            await client.get(path)

    def counted(path: str, status: str) -> float | None:
        labels = {"path": path, "status": status}
        return metrics.registry.get_sample_value("wisp_http_requests_total", labels)

    assert counted("/health", "200") == 2
    assert counted("other", "404") == 2


async def test_cors_is_a_setting(client: httpx.AsyncClient) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    allowed = await client.options("/v1/chat/completions", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    other = await client.options(
        "/v1/chat/completions", headers=asked | {"origin": "https://other.example"}
    )
    assert "access-control-allow-origin" not in other.headers


def test_a_line_of_json() -> None:
    record = logging.makeLogRecord(
        {"msg": "hello %s", "args": ("you",), "levelname": "INFO", "fields": {"status": 200}}
    )
    token = REQUEST_ID.set("mine-1")
    line = json.loads(json_line(record))
    REQUEST_ID.reset(token)
    assert line["message"] == "hello you"
    assert (line["request_id"], line["status"], line["level"]) == ("mine-1", 200, "INFO")
