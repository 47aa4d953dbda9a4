"""The gRPC link to the server: a stream for each generation, to one of the servers there are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc

from wisp import wire
from wisp.core.card import ModelCard
from wisp.core.drafts import DraftBlock
from wisp.core.request import Request
from wisp.errors import Unavailable
from wisp.status import error_of
from wisp.v1 import wisp_pb2 as pb
from wisp.v1 import wisp_pb2_grpc

# When a silent server is pinged, and how long its answer may take. Chosen: one that is gone without
# a word is found within half a minute, at 3 packets a minute.
KEEPALIVE_S, PING_TIMEOUT_S = 20.0, 10.0


def channel_options(
    keepalive_s: float = KEEPALIVE_S, ping_timeout_s: float = PING_TIMEOUT_S
) -> list[tuple[str, int]]:
    """gRPC's own options: how the channel finds that a server is gone, and comes back to one.

    The waits are chosen: a restarted server has its edges back within 2 s, and a fleet does not
    flood it with attempts. `min_reconnect_backoff_ms` is how long one attempt may take, not a wait.
    """
    return [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # four round trips with TLS, over a slow line
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", round(1000 * keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * ping_timeout_s)),
        # A ping has a time-out of its own, 60 s by default, which counts if it is the longer one.
        ("grpc.http2.ping_timeout_ms", round(1000 * ping_timeout_s)),
    ]


class _Peer:
    """One server."""

    def __init__(self, address: str, options: list[tuple[str, int]]) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.stub = wisp_pb2_grpc.WispStub(self.channel)  # type: ignore[no-untyped-call]


class Link:
    """`address`: of one server, or of several that serve the same target, with commas between.

    All generations use one of them, until it is lost; then all go on with the next.
    """

    def __init__(self, address: str, options: list[tuple[str, int]] | None = None) -> None:
        self.address = address
        names = [name.strip() for name in address.split(",") if name.strip()]
        random.shuffle(names)  # so that a fleet is spread over them
        self._peers = [_Peer(name, options or channel_options()) for name in names]
        self._ready: set[_Peer] = set()

    async def model(self, timeout_s: float = 5.0) -> tuple[ModelCard, pb.Model]:
        """The served target. Raises Unavailable while no server is in reach."""
        for peer in self._in_turn():
            try:
                model = await peer.stub.GetModel(pb.GetModelRequest(), timeout=timeout_s)
            except grpc.aio.AioRpcError as failure:
                error = error_of(failure)
                if not isinstance(error, Unavailable):
                    raise error from failure
                self._leave(peer)
            else:
                break
        else:
            raise error
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
        peer = self._peers[0]
        opening = wire.encode_open(request, hello)
        call = peer.stub.Generate()
        writer = asyncio.create_task(_write(call, opening, outbox))
        try:
            async for message in call:
                yield message
            _check(writer)
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure)
            if isinstance(error, Unavailable):
                self._leave(peer)
            raise error from failure
        except asyncio.CancelledError:
            _check(writer)
            raise
        finally:
            writer.cancel()
            call.cancel()

    def leave(self) -> None:
        """Go on with the next server: this one refused what another may take."""
        self._leave(self._peers[0])

    async def watch(self, on_change: Callable[[bool], None]) -> None:
        """Keep the connections up; tell whether there is one, now and on every change.

        Never returns.
        """
        await asyncio.gather(*(self._watch(peer, on_change) for peer in self._peers))

    async def close(self) -> None:
        for peer in self._peers:
            await peer.channel.close(grace=None)

    def _in_turn(self) -> Iterator[_Peer]:
        return iter(list(self._peers))

    def _leave(self, peer: _Peer) -> None:
        """The next generations go elsewhere, if this one is still where they would go."""
        if self._peers[0] is peer:
            self._peers.append(self._peers.pop(0))

    async def _watch(self, peer: _Peer, on_change: Callable[[bool], None]) -> None:
        while True:
            state = peer.channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                self._ready.add(peer)
            else:
                self._ready.discard(peer)
            on_change(bool(self._ready))
            await peer.channel.wait_for_state_change(state)


async def _write(call: Any, opening: pb.EdgeMessage, outbox: asyncio.Queue[DraftBlock]) -> None:
    try:
        await call.write(opening)
        while True:
            await call.write(wire.encode_draft(await outbox.get()))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the stream has ended; whoever reads it learns why
    except Exception:
        call.cancel()  # nothing more can be sent: whoever reads must not wait for an answer
        raise


def _check(writer: asyncio.Task[None]) -> None:
    """Raises what the writer failed with."""
    if writer.done() and not writer.cancelled() and (error := writer.exception()):
        raise error


class Backoff:
    """Waits that double, with jitter so that a fleet does not return in step."""

    def __init__(self, first_s: float = 0.1, max_s: float = 2.0) -> None:
        self._first_s, self._max_s = first_s, max_s
        self.reset()

    def reset(self) -> None:
        self._next_s = self._first_s

    async def wait(self, min_s: float = 0.0) -> None:
        """`min_s`: what the server asked for."""
        jitter = random.uniform(0.5, 1.0)
        await asyncio.sleep(max(2 * jitter * min_s, jitter * self._next_s))
        self._next_s = min(self._max_s, 2 * self._next_s)
