"""What a hostile edge, and an engine that hangs, cost the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.faults.network import Call, Replica
from benchmarks.faults.virtual import run
from tests.waiting import wait_on_the_loop
from wisp import wire
from wisp.access.gate import Gate
from wisp.config import EngineSettings, Listen, ServerConfig
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request, Sampling, Structure
from wisp.core.slo import Slo
from wisp.edge.link import Link
from wisp.errors import Unavailable
from wisp.server.grpc_front import GrpcFront, max_open_bytes
from wisp.server.server_metrics import ServerMetrics
from wisp.server.server_session import ServerSession
from wisp.server.servicer import WispServicer
from wisp.server.telemetry import OTHERS, Telemetry
from wisp.status import error_of
from wisp.testing.local import LocalEdge, LocalServer, expected_text, tokenizer
from wisp.v1 import wisp_pb2_grpc


@asynccontextmanager
async def serving(
    config: ServerConfig | None = None, **options: Any
) -> AsyncIterator[tuple[LocalServer, GrpcFront]]:
    server = LocalServer(config, step_s=0.0, max_model_len=2**17)
    front = GrpcFront(server.service, server.telemetry, Listen(port=0), **options)
    await front.start()
    yield server, front
    await front.stop(0)
    await server.stop()


def opening(**sampling: Any) -> Any:
    request = Request(prompt=[1, 2], sampling=Sampling(**{"max_tokens": 10, "seed": 0} | sampling))
    return wire.encode_open(
        request, wire.Hello(tokenizer_fingerprint=tokenizer().fingerprint, device="mine")
    )


async def test_verdicts_that_nobody_reads_end_their_stream_alone() -> None:
    async with serving(write_timeout_s=0.5) as (server, front):
        address = f"127.0.0.1:{front.port}"
        small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
        async with grpc.aio.insecure_channel(address, small) as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Generate()
            await call.write(opening(max_tokens=100_000, num_logprobs=1))
            edge = LocalEdge(Link(address))
            sampling = Sampling(max_tokens=50, seed=0)
            generation = await edge.backend.generate(Request(prompt=[7], sampling=sampling))
            tokens = [token async for verdict in generation for token in verdict.tokens]
            assert tokens == expected_text([7], sampling)
            async with asyncio.timeout(20):
                await server.engine.idle.wait()
            await edge.stop()


async def test_drafts_that_cannot_be_taken_cost_their_text_nothing_but_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    came = asyncio.Event()

    def fail(session: ServerSession, block: DraftBlock) -> None:
        came.set()
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(ServerSession, "draft", fail)
    async with serving() as (server, front):
        server.engine.hang()
        edge = LocalEdge(Link(f"127.0.0.1:{front.port}"))
        sampling = Sampling(max_tokens=50, seed=0)
        generation = await edge.backend.generate(Request(prompt=[7], sampling=sampling))
        await came.wait()
        server.engine.go_on()
        tokens = [token async for verdict in generation for token in verdict.tokens]
        assert tokens == expected_text([7], sampling)
        await edge.stop()
    assert "drafts could not be taken: a text goes on without them" in caplog.text


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"logit_bias": dict.fromkeys(range(2000), 1.0)}, "logit_bias has 2000 tokens"),
        ({"stop_token_ids": tuple(range(2000))}, "stop_token_ids has 2000 tokens"),
        ({"structure": Structure("regex", "a" * 100_000)}, "structure has 100000 characters"),
    ],
)
async def test_an_open_of_hostile_size_is_refused(sampling: Any, sentence: str) -> None:
    async with serving() as (_, front):
        link = Link(f"127.0.0.1:{front.port}")
        edge = LocalEdge(link)
        asked = Sampling(**{"max_tokens": 10, "seed": 0} | sampling)
        from wisp.errors import BadRequest

        with pytest.raises(BadRequest, match=sentence):
            await edge.backend.generate(Request(prompt=[7], sampling=asked))
        await edge.stop()


async def test_a_message_beyond_all_bounds_never_reaches_the_server() -> None:
    async with serving() as (server, front):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Generate()
            await call.write(opening(structure=Structure("regex", "a" * max_open_bytes(2**17))))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.engine.num_sessions == 0


async def test_one_connection_has_no_more_streams_than_the_engine_could_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC itself has no limit: each of them held a task and its buffers."""
    num_streams = 0

    async def generate(self: WispServicer, requests: object, context: object) -> None:
        nonlocal num_streams
        num_streams += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(WispServicer, "Generate", generate)
    config = ServerConfig(engine=EngineSettings(max_sessions=4))
    async with serving(config) as (_, front):
        address = f"127.0.0.1:{front.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            calls = [stub.Generate() for _ in range(100)]
            await wait_on_the_loop(lambda: num_streams >= 72, "there are all, with 64 to spare")
            edge = LocalEdge(Link(address))  # another connection is served meanwhile
            assert (await edge.backend.model()).id == "scripted"
            await edge.stop()
            assert num_streams == 72
            for call in calls:
                call.cancel()


async def test_one_caller_has_no_more_streams_by_more_connections() -> None:
    """Each waits 10 s for its Open: connections times streams of them, some hundred thousand."""
    config = ServerConfig(engine=EngineSettings(max_sessions=4))
    async with serving(config) as (_, front), contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(2):
            own = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", own)
            stub: Any = wisp_pb2_grpc.WispStub(await stack.enter_async_context(channel))  # type: ignore[no-untyped-call]
            calls += [stub.Generate() for _ in range(60)]
        refused = [asyncio.create_task(call.code()) for call in calls]
        await wait_on_the_loop(lambda: sum(t.done() for t in refused) >= 48, "some are refused")
        done = [task for task in refused if task.done()]
        assert len(done) == 48  # beyond 64 and twice the 4 sessions
        assert {task.result() for task in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in calls:
            call.cancel()
        await asyncio.wait(refused)
        edge = LocalEdge(Link(f"127.0.0.1:{front.port}"))
        generation = await edge.backend.generate(
            Request(prompt=[7], sampling=Sampling(max_tokens=3, seed=0))
        )
        assert len([token async for verdict in generation for token in verdict.tokens]) == 3
        await edge.stop()


async def test_health_over_grpc_turns_with_the_engine_and_holds_no_stream() -> None:
    """It said SERVING for as long as the process was there."""
    config = ServerConfig(engine=EngineSettings(patience_s=6.0))
    statuses = health_pb2.HealthCheckResponse
    async with (
        serving(config) as (server, front),
        grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="wisp.v1.Wisp")

        async def status() -> int:
            return int((await stub.Check(request)).status)

        assert await status() == statuses.SERVING
        server.engine.hang()
        await wait_on_the_loop(lambda: server.engine.hangs, "its silence is noticed")
        assert await status() == statuses.NOT_SERVING
        server.engine.go_on()
        await server.engine.snapshot()
        assert await status() == statuses.SERVING
        await server.service.drain(0.0, asyncio.Event())
        assert await status() == statuses.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Watch(request).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="another"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_an_open_that_a_silent_line_holds_up_is_a_lost_stream() -> None:
    """It was a protocol error, which ended the text."""

    async def body() -> float:
        server = LocalServer(step_s=0.01)
        replica = Replica("one")
        replica.servicer = WispServicer(server.service, server.telemetry, Gate(), 30.0)
        start_s = asyncio.get_running_loop().time()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(Call(replica, (), "edge", Random(1)))
        assert isinstance(error_of(caught.value), Unavailable)
        await server.stop()
        return asyncio.get_running_loop().time() - start_s

    assert run(body) == pytest.approx(10.0, abs=1.0)


def test_the_largest_open_that_is_allowed_fits_into_a_message() -> None:
    length = 4096
    request = Request(
        prompt=[2**32 - 1] * length,
        committed=[2**32 - 1] * length,
        sampling=Sampling(
            max_tokens=2**31,
            seed=2**64 - 1,
            logit_bias={2**32 - 1 - number: 1.5 for number in range(1024)},
            stop_token_ids=tuple(2**32 - 1 - number for number in range(1024)),
            structure=Structure("regex", "\U0001f600" * 2**16),
        ),
    )
    hello = wire.Hello(tokenizer_name="x" * 1000, device="x" * 1000, resume_key=b"x" * 64)
    assert wire.encode_open(request, hello).ByteSize() < max_open_bytes(length)


async def test_an_engine_that_hangs_is_found_and_everybody_answered() -> None:
    config = ServerConfig(engine=EngineSettings(patience_s=3.0))
    async with serving(config) as (server, _):
        service = server.service
        session = service.open(Request(prompt=[1], sampling=Sampling(max_tokens=9, seed=0)))
        server.engine.hang()
        assert await service.health() is None
        await wait_on_the_loop(lambda: server.engine.hangs, "its silence is noticed")
        assert "does not answer" in str(await service.health())
        with pytest.raises(Unavailable, match="does not answer"):
            service.open(Request(prompt=[1], sampling=Sampling(max_tokens=9, seed=0)))
        with pytest.raises(Unavailable, match="has stopped"):
            async for _ in session:
                pass
        assert server.engine.lost.is_set()  # by which the process leaves, for a supervisor


async def test_an_engine_that_answers_late_is_not_given_up() -> None:
    config = ServerConfig(engine=EngineSettings(patience_s=4.0))
    async with serving(config) as (server, _):
        server.engine.hang()
        await wait_on_the_loop(lambda: server.engine.hangs, "its silence is noticed")
        server.engine.go_on()
        await server.engine.snapshot()
        assert not server.engine.hangs
        assert await server.service.health() is None


def test_names_of_devices_do_not_grow_without_bound() -> None:
    telemetry = Telemetry([], ServerMetrics(), 0.0)
    slo = Slo(tokens_per_s=1, first_token_s=1)
    for number in range(10_000):
        telemetry.closed(telemetry.opened(number, slo, f"device {number}", 1.0))
    assert len(telemetry.devices) <= 4097
    assert telemetry.devices[OTHERS].num_sessions == 0
