"""The gRPC link to the server: one channel, a stream for each generation."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc

from wisp import wire
from wisp.core.card import ModelCard
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request
from wisp.status import error_of
from wisp.v1 import wisp_pb2 as pb
from wisp.v1 import wisp_pb2_grpc

# How the channel finds that a server is gone, and comes back to one (gRPC's own options). Chosen: a
# restarted server has its edges back within 2 s, a fleet does not flood it with attempts, and one
# that is gone without a word is found within half a minute at 3 packets a minute.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


class Link:
    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = wisp_pb2_grpc.WispStub(self._channel)  # type: ignore[no-untyped-call]

    async def model(self, timeout_s: float = 5.0) -> tuple[ModelCard, pb.Model]:
        """The served target. Raises Unavailable while the server is out of reach."""
        try:
            model = await self._stub.GetModel(pb.GetModelRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from failure
        card = ModelCard(
            id=model.id,
            created=model.created,
            max_model_len=model.max_model_len,
            vocab_size=model.vocab_size,
            eos_token_ids=tuple(model.eos_token_ids),
            adapters=tuple(model.adapters),
        )
        return card, model

    async def generate(
        self, request: Request, hello: wire.Hello, outbox: asyncio.Queue[DraftBlock]
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        """One attempt: opens a stream, then sends what comes into `outbox`; yields the answers.

        Raises what the server's status means, Unavailable when the connection is lost. Closing
        the iterator cancels the stream, which frees the session at once.
        """
        call = self._stub.Generate()
        writer = asyncio.create_task(_write(call, wire.encode_open(request, hello), outbox))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from failure
        finally:
            writer.cancel()
            call.cancel()

    async def watch(self, on_change: Callable[[bool], None]) -> None:
        """Keep the connection up; tell whether it is, now and on every change. Never returns."""
        while True:
            state = self._channel.get_state(try_to_connect=True)
            on_change(state is grpc.ChannelConnectivity.READY)
            await self._channel.wait_for_state_change(state)

    async def close(self) -> None:
        await self._channel.close(grace=None)


async def _write(call: Any, opening: pb.EdgeMessage, outbox: asyncio.Queue[DraftBlock]) -> None:
    # A write fails when the stream has ended; whoever reads the stream learns why.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(opening)
        while True:
            await call.write(wire.encode_draft(await outbox.get()))


class Backoff:
    """Waits that double, with jitter so that a fleet does not return in step."""

    def __init__(self, first_s: float = 0.1, max_s: float = 2.0) -> None:
        self._first_s, self._max_s = first_s, max_s
        self.reset()

    def reset(self) -> None:
        self._next_s = self._first_s

    async def wait(self) -> None:
        await asyncio.sleep(self._next_s * random.uniform(0.5, 1.0))
        self._next_s = min(self._max_s, 2 * self._next_s)
