"""Keys, quotas and fair shares at the server's doors, over gRPC and HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi import APIRouter
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from msgspec import structs

from wisp.access.gate import Caller, Gate
from wisp.access.keys import KeyRecord, add, revoke
from wisp.config import EdgeConfig, EngineSettings, Listen, ServerConfig
from wisp.core.drafts import Verdict
from wisp.core.request import Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.link import Link
from wisp.edge.security import Security
from wisp.errors import Forbidden, HandshakeError, Overloaded, Shed, Unavailable
from wisp.openai.access import AccessMiddleware
from wisp.openai.routes import create_app
from wisp.server.grpc_front import GrpcFront
from wisp.status import error_of
from wisp.testing.local import LocalEdge, LocalServer, expected_text

NUM_SLOTS = 4
SAMPLING = Sampling(max_tokens=20, seed=0)
BODY = {"model": "scripted", "prompt": [1, 2, 3], "max_tokens": 5, "seed": 1}


class Rig:
    """One server with both fronts, and a file of keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys.yaml"
        self.key = add(self.keys, KeyRecord(name="first"))
        self.gate = Gate(self.keys)
        self.server = LocalServer(ServerConfig(engine=EngineSettings(max_sessions=NUM_SLOTS)))
        self.front = GrpcFront(
            self.server.service, self.server.telemetry, Listen(port=0), None, self.gate
        )
        router = APIRouter()

        @router.get("/metrics")
        async def metrics() -> str:
            return "told"

        app = create_app(self.server.service, routers=[router])
        self.app = AccessMiddleware(app, self.gate, {"/metrics"}, operators_open=False)

    def more(self, **record: Any) -> str:
        key = add(self.keys, KeyRecord(**record))
        self.gate.reload()
        return key

    def edge(self, key: str | None) -> LocalEdge:
        path = None
        if key is not None:
            path = self.folder / f"{len(list(self.folder.iterdir()))}.key"
            path.write_text(key)
        config = EdgeConfig(key_file=path, reconnect_s=5.0)
        link = Link(f"127.0.0.1:{self.front.port}", security=Security(config))
        return LocalEdge(link, config)

    def http(self, key: str | None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://wisp", headers=headers)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.front.start()
    yield rig
    await rig.front.stop(0)
    await rig.server.stop()


async def write(edge: LocalEdge, sampling: Sampling = SAMPLING, **asked: Any) -> list[int]:
    generation = await edge.backend.generate(Request(prompt=[1, 2], sampling=sampling, **asked))
    try:
        return [token async for verdict in generation for token in verdict.tokens]
    finally:
        await generation.aclose()


async def test_an_edge_with_a_key_is_served(rig: Rig) -> None:
    edge = rig.edge(rig.key)
    assert await write(edge) == expected_text([1, 2], SAMPLING)
    await edge.stop()


@pytest.mark.parametrize("key", [None, "sk-wisp-wrong"])
async def test_an_edge_without_one_is_told(rig: Rig, key: str | None) -> None:
    edge = rig.edge(key)
    with pytest.raises(HandshakeError, match="does not let this edge in"):
        await edge.backend.model()
    await edge.stop()


async def test_no_stream_is_opened_without_a_key(rig: Rig) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.front.port}") as channel:
        open_stream: Any = channel.stream_stream
        call = open_stream("/wisp.v1.Wisp/Generate")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "API key" in str(error_of(caught.value))


async def test_http_asks_in_openais_words(rig: Rig) -> None:
    async with rig.http(None) as client:
        answer = await client.post("/v1/completions", json=BODY)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401
    async with rig.http(rig.key) as client:
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200


async def test_a_body_is_not_read_before_the_key(rig: Rig) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        raise AssertionError("the body is read")

    async with rig.http("wrong") as client:
        headers = {"content-type": "application/json"}
        answer = await client.post("/v1/completions", content=endless(), headers=headers)
        assert answer.status_code == 401


async def test_operators_have_keys_of_their_own(rig: Rig) -> None:
    operator = rig.more(name="ops", operator=True)
    for key, status in ((None, 401), (rig.key, 403), (operator, 200)):
        async with rig.http(key) as client:
            assert (await client.get("/metrics")).status_code == status


async def test_a_quota_of_requests_is_told_and_kept(rig: Rig) -> None:
    key = rig.more(name="few", requests_per_minute=2, tokens_per_minute=100)
    async with rig.http(key) as client:
        for _ in range(2):
            answer = await client.post("/v1/completions", json=BODY)
            assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        answer = await client.post("/v1/completions", json=BODY)
        assert answer.status_code == 429
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < float(answer.headers["retry-after"]) <= 30
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        # Prompt and answer of both count, nothing of the third; some come back meanwhile.
        assert 84 <= int(answer.headers["x-ratelimit-remaining-tokens"]) < 92


async def test_a_quota_counts_for_an_edge(rig: Rig) -> None:
    edge = rig.edge(rig.more(name="one", max_sessions=1, slo_classes=["default"]))
    slow = Sampling(max_tokens=2000, seed=0)
    first = await edge.backend.generate(Request(prompt=[1], sampling=slow))
    await anext(aiter(first))
    with pytest.raises(Overloaded, match="all its 1 sessions"):
        await write(edge)
    await first.aclose()
    await rig.server.engine.idle.wait()
    assert len(await write(edge)) == 20
    with pytest.raises(Forbidden, match="'batch': use one of default"):
        await write(edge, slo="batch")
    with pytest.raises(Forbidden, match="'custom'"):
        await write(edge, slo=Slo(tokens_per_s=1, first_token_s=1))
    await edge.stop()


async def test_what_the_engine_refuses_costs_nothing(rig: Rig) -> None:
    usage = rig.gate.caller(f"Bearer {rig.more(name='counted', tokens_per_minute=1000)}").usage
    caller = Caller("counted", usage)
    before = usage.headers()
    rig.server.engine.hang()
    session = rig.server.service.open(Request(prompt=[1, 2], sampling=SAMPLING), None, caller)
    assert usage.headers() != before
    session.fail(Overloaded("no room after all"))
    with pytest.raises(Overloaded):
        await anext(aiter(session))
    session.close()
    assert usage.headers()["x-ratelimit-remaining-tokens"] == "1000"
    assert usage.num_sessions == 0


async def test_a_revoked_key_ends_what_runs(rig: Rig) -> None:
    edge = rig.edge(rig.key)
    slow = Sampling(max_tokens=2000, seed=0)
    generation = await edge.backend.generate(Request(prompt=[1], sampling=slow))
    verdicts = aiter(generation)
    await anext(verdicts)
    revoke(rig.keys, "first")
    assert rig.gate.reload()
    rig.server.service.revoke(rig.gate)
    with pytest.raises(Forbidden, match="was revoked"):
        async for _ in verdicts:
            pass
    assert rig.server.engine.num_sessions == 0
    await edge.stop()


async def test_one_key_that_takes_all_slots_gives_them_back(rig: Rig) -> None:
    """At 0.001 tokens/s it would keep them for ever."""
    greedy, honest = rig.edge(rig.key), rig.edge(rig.more(name="honest"))
    slow = Slo(tokens_per_s=0.001, first_token_s=1)
    long = Sampling(max_tokens=2000, seed=0)
    taken = []
    for _ in range(NUM_SLOTS):
        request = Request(prompt=[1], sampling=long, slo=slow)
        taken.append(aiter(await greedy.backend.generate(request)))
        await anext(taken[-1])
    assert await write(honest) == expected_text([1, 2], SAMPLING)
    ends = await asyncio.gather(*map(_end, taken), return_exceptions=True)
    (shed,) = (end for end in ends if isinstance(end, Shed))
    assert "to make room for others" in str(shed)
    assert ends.count(None) == NUM_SLOTS - 1
    for edge in (greedy, honest):
        await edge.stop()


async def _end(verdicts: AsyncIterator[Verdict]) -> None:
    async for _ in verdicts:
        pass


async def test_a_resume_is_not_refused_for_the_rates_of_its_key(rig: Rig) -> None:
    """Its text was begun, and was lost when the key's requests of the minute were used up."""
    caller = rig.gate.caller(f"Bearer {rig.more(name='few', requests_per_minute=1)}")
    service = rig.server.service
    request = Request(prompt=[1], sampling=Sampling(max_tokens=1000, seed=0))
    lost = service.open(request, None, caller)
    (token, *_) = (await anext(aiter(lost))).tokens
    lost.close()
    with pytest.raises(Overloaded, match="1 requests a minute"):
        service.open(request, None, caller)
    service.open(structs.replace(request, committed=[token]), None, caller).close()


async def test_a_lost_engine_is_at_no_callers_cost(rig: Rig) -> None:
    caller = rig.gate.caller(f"Bearer {rig.more(name='paid', requests_per_minute=5)}")
    rig.server.engine.hang()
    request = Request(prompt=[1], sampling=SAMPLING)
    session = rig.server.service.open(request, None, caller)
    rig.server.engine.crash()
    with pytest.raises(Unavailable):
        await anext(aiter(session))
    session.close()
    assert caller.usage.headers()["x-ratelimit-remaining-requests"] == "5"


async def test_reflection_is_for_those_who_are_let_in(rig: Rig) -> None:
    """Anybody could hold its streams for ever."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.front.port}") as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ServerReflectionInfo(iter([asked])).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        call = stub.ServerReflectionInfo(
            iter([asked]), metadata=(("authorization", f"Bearer {rig.key}"),)
        )
        answer = await call.read()
    assert "wisp.v1.Wisp" in [s.name for s in answer.list_services_response.service]


async def test_a_resume_key_of_another_is_none(rig: Rig) -> None:
    """Who learns it can neither end nor take over what is not his."""
    from wisp import wire

    mine = rig.gate.caller(f"Bearer {rig.key}")
    other = rig.gate.caller(f"Bearer {rig.more(name='other')}")
    service = rig.server.service
    hello = wire.Hello(
        tokenizer_fingerprint=service.tokenizer.fingerprint, resume_key=b"0123456789abcdef"
    )
    request = Request(prompt=[1], sampling=Sampling(max_tokens=1000, seed=0))
    first = service.open(request, hello, mine)
    second = service.open(request, hello, other)
    verdicts = aiter(first)
    await anext(verdicts)
    assert mine.usage.num_sessions == other.usage.num_sessions == 1
    again = service.open(request, hello, mine)
    assert mine.usage.num_sessions == 1
    for session in (first, second, again):
        session.close()
    assert mine.usage.num_sessions == other.usage.num_sessions == 0
