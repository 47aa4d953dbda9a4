"""The gRPC link over real sockets: what a server, a balancer or a silent line does to a stream."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest
from msgspec import structs

from wisp import wire
from wisp.core.drafts import REST, Directive, DraftBlock, Verdict
from wisp.core.request import FinishReason, Request, Sampling
from wisp.core.slo import Slo
from wisp.edge.link import Link, Outbox, channel_options
from wisp.errors import Forbidden, InternalError, Unavailable
from wisp.server.grpc_front import server_options
from wisp.status import refusal_of
from wisp.testing.line import Line
from wisp.v1 import wisp_pb2 as pb
from wisp.v1 import wisp_pb2_grpc

REQUEST = Request(prompt=[1, 2, 3], sampling=Sampling(max_tokens=8, seed=0))
OPENED = wire.encode_opened(Directive(4, 0.5), 64, Slo(tokens_per_s=10, first_token_s=1))
PREFACE = 24  # bytes in which an HTTP/2 client says what it speaks, before its first frame
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4  # types of HTTP/2 frames
# Of HTTP/2, all that there are. gRPC makes INTERNAL, UNAVAILABLE, CANCELLED, RESOURCE_EXHAUSTED
# and PERMISSION_DENIED of them.
RESETS = range(14)


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, stream) + payload


async def reset_every_stream(
    code: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readexactly(PREFACE)
    writer.write(frame(SETTINGS, 0))
    try:
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS:
                stream = int.from_bytes(head[5:], "big")
                writer.write(frame(RST_STREAM, stream, struct.pack(">I", code)))
    except asyncio.IncompleteReadError:
        writer.close()


async def first_answer(link: Link) -> pb.ServerMessage:
    async with aclosing(link.generate(REQUEST, wire.Hello(), asyncio.Queue())) as answers:
        return await anext(answers)


@asynccontextmanager
async def opened(
    port: int, options: list[tuple[str, int]] | None = None
) -> AsyncIterator[tuple[AsyncGenerator[pb.ServerMessage, None], Outbox]]:
    """A stream whose first answer has come: the others, and what it sends."""
    link = Link(f"127.0.0.1:{port}", options)
    outbox: Outbox = asyncio.Queue()
    async with aclosing(link.generate(REQUEST, wire.Hello(), outbox)) as answers:
        await anext(answers)
        yield answers, outbox
    await link.close()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    line = Line(port)
    await line.start()
    yield line
    await line.stop()


@pytest.mark.parametrize("code", RESETS)
async def test_a_stream_that_a_balancer_resets_is_a_lost_one(code: int) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: reset_every_stream(code, reader, writer), "127.0.0.1", 0
    )
    link = Link(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Unavailable):
        await first_answer(link)
    await link.close()
    server.close()


class Servicer(wisp_pb2_grpc.WispServicer):
    """Opens every stream, says whether it ended, and does what it is told behind that."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.gone = asyncio.Event()

    async def GetModel(self, request: pb.GetModelRequest, context: object) -> pb.Model:
        return pb.Model(id="one")

    async def Generate(
        self,
        requests: AsyncIterator[pb.EdgeMessage],
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[pb.ServerMessage]:
        try:
            yield OPENED
            async for _ in requests:
                if self.error:
                    raise self.error
            await asyncio.Event().wait()
        finally:
            self.gone.set()


@asynccontextmanager
async def serving(servicer: Servicer, **times: float) -> AsyncIterator[int]:
    server = grpc.aio.server(options=server_options(**times))
    wisp_pb2_grpc.add_WispServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


async def test_a_servers_own_failure_without_our_mark_is_a_lost_stream() -> None:
    """gRPC answers UNKNOWN where a handler raises: so does a proxy that breaks."""
    async with serving(Servicer(RuntimeError("broken"))) as port, opened(port) as (answers, _):
        with pytest.raises(Unavailable):
            await anext(answers)


FAST = {"keepalive_s": 1.0, "ping_timeout_s": 1.0}
SLOW = {"keepalive_s": 1000.0, "ping_timeout_s": 1000.0}


async def test_an_edge_notices_a_silent_line() -> None:
    """The ping's own time-out, 60 s by default, is the shorter of the two no more."""
    async with (
        serving(Servicer(), **SLOW) as port,
        line_to(port) as line,
        opened(line.port, channel_options(**FAST)) as (answers, _),
    ):
        line.swallow()
        start_s = time.monotonic()
        with pytest.raises(Unavailable):
            await anext(answers)
        assert time.monotonic() - start_s < 15


async def test_a_server_notices_a_silent_line() -> None:
    servicer = Servicer()
    async with (
        serving(servicer, **FAST) as port,
        line_to(port) as line,
        opened(line.port, channel_options(**SLOW)),
    ):
        line.swallow()
        async with asyncio.timeout(15):
            await servicer.gone.wait()
        line.mend()


class LastWord(Servicer):
    async def Generate(
        self,
        requests: AsyncIterator[pb.EdgeMessage],
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[pb.ServerMessage]:
        end = Verdict(position=3, tokens=[4], directive=REST, finish_reason=FinishReason.STOP)
        yield wire.encode_verdict(end)
        async for _ in requests:
            pass
        self.gone.set()


async def test_an_edge_says_that_it_has_heard_the_last_verdict() -> None:
    """Only then may the server end the stream: see wisp/server/servicer.py."""
    servicer = LastWord()
    async with serving(servicer) as port:
        link = Link(f"127.0.0.1:{port}")
        stream = link.generate(REQUEST, wire.Hello(), asyncio.Queue())
        answers = [answer async for answer in stream]
        assert servicer.gone.is_set()
        assert [list(answer.verdict.tokens) for answer in answers] == [[4]]
        await link.close()


async def test_a_conversation_goes_along_as_metadata() -> None:
    seen: list[object] = []

    class Listening(Servicer):
        async def Generate(
            self,
            requests: AsyncIterator[pb.EdgeMessage],
            context: grpc.aio.ServicerContext[object, object],
        ) -> AsyncIterator[pb.ServerMessage]:
            seen.append(dict(context.invocation_metadata() or ()).get("x-session-id"))
            yield OPENED

    async with serving(Listening()) as port:
        link = Link(f"127.0.0.1:{port}")
        for name in ("a chat", ""):
            request = structs.replace(REQUEST, conversation=name)
            async with aclosing(link.generate(request, wire.Hello(), asyncio.Queue())) as answers:
                await anext(answers)
        await link.close()
    assert seen == ["a chat", None]


async def test_of_several_servers_the_next_one_takes_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    async with serving(Servicer()) as port:
        for _ in range(4):  # whichever comes first by chance
            link = Link(f"127.0.0.1:{nobody}, 127.0.0.1:{port}")
            card, _ = await link.model()
            assert card.id == "one"
            assert (await first_answer(link)).HasField("opened")
            await link.close()


async def test_a_block_that_cannot_be_sent_is_heard_of() -> None:
    async with serving(Servicer()) as port, opened(port) as (answers, outbox):
        outbox.put_nowait(DraftBlock(1, 3, [2**40], [1.0]))
        with pytest.raises(ValueError, match="out of range"):
            await anext(answers)


class Refusing(Servicer):
    """Ends each stream while its edge writes."""

    async def Generate(
        self, requests: AsyncIterator[pb.EdgeMessage], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ServerMessage]:
        yield OPENED
        await anext(aiter(requests))
        refusal = refusal_of(Forbidden("the key of this session was revoked"))
        await context.abort(refusal.code, refusal.details, refusal.trailing_metadata)


async def test_a_refusal_is_not_covered_up_by_a_write_that_comes_too_late() -> None:
    """gRPC made INTERNAL of three in ten: the edge tried again, and was told something else."""
    block = DraftBlock(1, 3, [1] * 64, [1.0] * 64)
    async with serving(Refusing()) as port:
        for _ in range(50):
            async with opened(port) as (answers, outbox):
                for _ in range(20):
                    outbox.put_nowait(block)
                with pytest.raises(Forbidden, match="was revoked"):
                    await anext(answers)


def test_refusals_are_marked() -> None:
    assert refusal_of(InternalError("why")).trailing_metadata
