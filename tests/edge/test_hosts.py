from __future__ import annotations

import socket

import httpx
import pytest
from starlette.applications import Starlette

from wisp.edge.hosts import HostsMiddleware


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8010", 404),
        ("localhost", 404),
        ("LOCALHOST:8010", 404),
        ("app.localhost:1", 404),
        ("[::1]:8010", 404),
        ("192.168.1.7:8010", 404),
        (socket.gethostname(), 404),
        ("my-edge.lan:8010", 404),
        ("evil.example", 403),
        ("evil.example:8010", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
    ],
)
async def test_a_name_that_anybody_may_point_here_is_refused(host: str, status: int) -> None:
    app = HostsMiddleware(Starlette(), ["my-edge.lan"])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert "--allowed_hosts" in answer.json()["error"]["message"]
