"""The gRPC link to the server: a stream for each generation, to one of the servers there are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc

from wisp import wire
from wisp.config import server_addresses
from wisp.core.card import ModelCard
from wisp.core.drafts import DraftBlock
from wisp.core.request import CONVERSATION_HEADER, Request
from wisp.edge.ending import Ending
from wisp.edge.pending import Pending
from wisp.edge.security import Security
from wisp.errors import HandshakeError, NotAuthenticated, Unavailable, WispError
from wisp.logs import REQUEST_ID, REQUEST_ID_HEADER
from wisp.padding import Padding, Ticks, is_cover
from wisp.status import error_of
from wisp.tasks import every
from wisp.tls import RELOAD_S
from wisp.tracing import metadata as trace_metadata
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


Outbox = asyncio.Queue[DraftBlock | None]  # None: nothing more will come


class _Peer:
    """One server."""

    def __init__(self, address: str, options: list[tuple[str, int]], security: Security) -> None:
        self.address = address
        self._options = options
        self._security = security
        self._old: grpc.aio.Channel | None = None
        self.renewed = asyncio.Event()
        self._open()

    async def renew(self) -> None:
        """With the certificates as they are now; streams under way go on over the old connection.

        It is kept until the next time: what is still running then resumes.
        """
        if self._old:
            await self._old.close(grace=None)
        self._old = self.channel
        self._open()
        self.renewed.set()

    async def close(self) -> None:
        for channel in (self._old, self.channel):
            if channel:
                await channel.close(grace=None)

    def _open(self) -> None:
        credentials = self._security.credentials(self.address)
        if credentials:
            self.channel = grpc.aio.secure_channel(self.address, credentials, self._options)
        else:
            self.channel = grpc.aio.insecure_channel(self.address, self._options)
        self.stub = wisp_pb2_grpc.WispStub(self.channel)  # type: ignore[no-untyped-call]


class Link:
    """`address`: of one server, or of several that serve the same target, with commas between.

    All generations use one of them, until it is lost; then all go on with the next.
    """

    def __init__(
        self,
        address: str,
        options: list[tuple[str, int]] | None = None,
        security: Security | None = None,
        padding: Padding | None = None,
    ) -> None:
        """Raises ConfigError if the connection would not be secure enough."""
        self.address = address
        self.padding = padding
        self._security = security or Security()
        names = server_addresses(address)
        random.shuffle(names)  # so that a fleet is spread over them
        options = options or channel_options()
        self._peers = [_Peer(name, options, self._security) for name in names]
        self._ready: set[_Peer] = set()

    async def model(
        self, fingerprint: str = "", timeout_s: float = 5.0
    ) -> tuple[ModelCard, pb.Model]:
        """The served target, with its rules for prompts unless they have this fingerprint.

        Raises Unavailable while no server is in reach.
        """
        request = pb.GetModelRequest(tokenizer_fingerprint=fingerprint)
        for peer in self._in_turn():
            try:
                metadata = self._security.metadata()
                model = await peer.stub.GetModel(request, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                error = _told_to_an_edge(error_of(failure))
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
        self, request: Request, hello: wire.Hello, outbox: Outbox
    ) -> AsyncGenerator[pb.ServerMessage, None]:
        """One attempt: opens a stream, then sends what comes into `outbox`; yields the answers.

        Raises what the server's status means, Unavailable when the connection is lost. Closing
        the iterator cancels the stream, which frees the session at once.
        """
        peer = self._peers[0]
        opening = wire.encode_open(request, hello)
        metadata = (*self._security.metadata(), *trace_metadata())
        if REQUEST_ID.get():
            metadata = (*metadata, (REQUEST_ID_HEADER, REQUEST_ID.get()))
        if request.conversation:
            metadata = (*metadata, (CONVERSATION_HEADER, request.conversation))
        call = peer.stub.Generate(metadata=metadata)
        ending = Ending(call)
        writer = asyncio.create_task(_write(call, opening, outbox, self.padding))
        try:
            async for message in call:
                if is_cover(message):
                    continue
                if message.verdict.finish_reason:
                    outbox.put_nowait(None)  # the server ends the stream when it has heard that
                yield message
            _check(writer)
        except grpc.aio.AioRpcError as failure:
            error = _told_to_an_edge(error_of(ending.of(failure)))
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
        failed = "certificates and the key could not be read again"
        renewing = every(RELOAD_S, self.renew_if_changed, failed)
        try:
            await asyncio.gather(*(self._watch(peer, on_change) for peer in self._peers))
        finally:
            renewing.cancel()

    async def close(self) -> None:
        for peer in self._peers:
            await peer.close()

    async def renew_if_changed(self) -> None:
        """Connections with other certificates, if those in the files are others by now."""
        if self._security.changed():
            for peer in self._peers:
                await peer.renew()

    def _in_turn(self) -> Iterator[_Peer]:
        return iter(list(self._peers))

    def _leave(self, peer: _Peer) -> None:
        """The next generations go elsewhere, if this one is still where they would go."""
        if self._peers[0] is peer:
            self._peers.append(self._peers.pop(0))

    async def _watch(self, peer: _Peer, on_change: Callable[[bool], None]) -> None:
        while True:
            channel = peer.channel
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                self._ready.add(peer)
            else:
                self._ready.discard(peer)
            on_change(bool(self._ready))
            waiting = [
                asyncio.ensure_future(channel.wait_for_state_change(state)),
                asyncio.ensure_future(peer.renewed.wait()),
            ]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
            peer.renewed.clear()


async def _write(
    call: Any, opening: pb.EdgeMessage, outbox: Outbox, padding: Padding | None
) -> None:
    try:
        await call.write(opening)
        if padding:
            await _write_padded(call, outbox, padding)
        else:
            while block := await outbox.get():
                await call.write(wire.encode_draft(block))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the stream has ended; whoever reads it learns why
    except Exception:
        call.cancel()  # nothing more can be sent: whoever reads must not wait for an answer
        raise


async def _write_padded(call: Any, outbox: Outbox, padding: Padding) -> None:
    """A message at each tick: what waits, or padding alone."""
    ticks, pending = Ticks(padding.interval_s), Pending(padding)
    while True:
        await ticks.wait()
        while not outbox.empty():
            block = outbox.get_nowait()
            if block is None:
                return
            pending.add(block)
        await call.write(pending.take())


def _told_to_an_edge(error: WispError) -> WispError:
    """The key at fault is the edge's own, not that of whoever asks the edge."""
    if isinstance(error, NotAuthenticated):
        return HandshakeError(f"the server does not let this edge in (--key_file, --tls): {error}")
    return error


def _check(writer: asyncio.Task[None]) -> None:
    """Raises what the writer failed with."""
    if writer.done() and not writer.cancelled() and (error := writer.exception()):
        raise error
