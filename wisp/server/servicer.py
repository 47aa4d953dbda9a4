"""Translates the stream of one generation between gRPC and the service, which decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from msgspec import structs

from wisp import wire
from wisp.access.gate import Caller, Gate
from wisp.core.drafts import Verdict
from wisp.errors import InternalError, Overloaded, ProtocolError, Unavailable, WispError
from wisp.logs import REQUEST_ID, REQUEST_ID_HEADER, request_id
from wisp.padding import Padding, Ticks, is_cover
from wisp.server.grpc_services import SERVICE, abort
from wisp.server.server_session import ServerSession
from wisp.server.service import Service
from wisp.server.telemetry import Telemetry
from wisp.status import code_of
from wisp.tasks import begin
from wisp.tracing import continued, tell
from wisp.v1 import wisp_pb2 as pb
from wisp.v1 import wisp_pb2_grpc

log = logging.getLogger(__name__)

# How long a stream may take to send its Open. Chosen: a long prompt over a slow line, but nobody
# holds a stream for ever without saying a word.
_OPEN_TIMEOUT_S = 10.0
# How long a stream whose last verdict is sent waits for the edge to say that it has nothing more to
# send. A proxy resets a stream that ends before, and what it had not passed on yet is lost. Chosen:
# some round trips over a slow line, and its session is closed by then.
_LAST_WORD_S = 2.0
# Streams of one connection, and of one caller, beyond twice what the engine takes. Chosen: refusals
# under way.
_SPARE_STREAMS = 64
# Messages of padding alone that an edge may send in a second. Chosen: twice what its settings
# allow (wisp/config/sections.py).
_MAX_COVERS_PER_S = 400

Context = grpc.aio.ServicerContext[pb.EdgeMessage, pb.ServerMessage]


class _Gone(Exception):
    """The edge has left its stream: nobody reads why it ends."""


class WispServicer(wisp_pb2_grpc.WispServicer):
    def __init__(
        self,
        service: Service,
        telemetry: Telemetry,
        gate: Gate,
        write_timeout_s: float,
        padding: Padding | None = None,
    ) -> None:
        self._padding = padding
        self._service = service
        self._write_timeout_s = write_timeout_s
        self._gate = gate
        self._telemetry = telemetry
        self._max_streams = max_streams(service)
        self._num_streams: Counter[str] = Counter()  # by caller

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        try:
            self.caller(context)
        except WispError as error:
            await abort(context, error)
        card, tokenizer = self._service.card, self._service.tokenizer
        known = request.tokenizer_fingerprint == tokenizer.fingerprint
        return pb.Model(
            id=card.id,
            created=card.created,
            max_model_len=card.max_model_len,
            vocab_size=card.vocab_size,
            eos_token_ids=card.eos_token_ids,
            tokenizer_name=tokenizer.name,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocabulary_fingerprint=tokenizer.vocabulary,
            prompt_rules="" if known else tokenizer.rules,
            protocol=wire.PROTOCOL,
            adapters=card.adapters,
            padding=bool(self._padding),
        )

    async def Generate(self, requests: AsyncIterator[pb.EdgeMessage], context: Context) -> None:
        sent = dict(context.invocation_metadata() or ())
        own_id = request_id(str(sent.get(REQUEST_ID_HEADER, "")))
        REQUEST_ID.set(own_id)
        with continued(f"{SERVICE}/Generate", sent):
            tell(request_id=own_id)
            await self._generate(requests, context)

    async def _generate(self, requests: AsyncIterator[pb.EdgeMessage], context: Context) -> None:
        begun_s, status = time.monotonic(), "CANCELLED"
        try:
            caller = self.caller(context)
            with self._stream_of(caller.name):
                await self._serve(context, _parsed(requests), caller)
            status = "OK"
        except _Gone:
            return
        except WispError as error:
            status = code_of(error).name
            await abort(context, error)
        except Exception:
            status = "INTERNAL"
            log.exception("a stream failed")
            await abort(context, InternalError("the server failed on the stream: its log says why"))
        finally:
            time_s = time.monotonic() - begun_s
            fields = {"method": "Generate", "status": status, "time_s": round(time_s, 6)}
            tell(status=status)
            log.info("Generate %s %.3f s", status, time_s, extra={"fields": fields})

    @contextlib.contextmanager
    def _stream_of(self, name: str) -> Iterator[None]:
        """Raises Overloaded if the caller has too many: connections it may have several."""
        if self._num_streams[name] >= self._max_streams:
            raise Overloaded(f"you have {self._max_streams} streams open: end one first")
        self._num_streams[name] += 1
        try:
            yield
        finally:
            self._num_streams[name] -= 1
            if not self._num_streams[name]:
                del self._num_streams[name]

    async def _serve(
        self, context: Context, requests: AsyncIterator[pb.EdgeMessage], caller: Caller
    ) -> None:
        session, padded = await self._open(requests, caller)
        read = partial(_read_drafts, requests, session)
        reader = begin(read, "drafts could not be taken: a text goes on without them")
        try:
            opened = wire.encode_opened(
                self._service.directive,
                self._service.max_window,
                session.attainment.slo,
                self._service.max_forks,
            )
            await self._write(context, opened)
            if self._padding and padded:
                await self._write_padded(context, session, self._padding)
            else:
                async for verdict in session:
                    await self._write(context, self._encode(verdict))
            session.close()
            await asyncio.wait([reader], timeout=_LAST_WORD_S)
        finally:
            reader.cancel()
            session.close()

    async def _write_padded(
        self, context: Context, session: ServerSession, padding: Padding
    ) -> None:
        """A message at each tick: a verdict that waits, or padding alone."""
        ticks, verdicts = Ticks(padding.interval_s), aiter(session)
        coming = asyncio.ensure_future(anext(verdicts, None))
        try:
            while True:
                await ticks.wait()
                message = pb.ServerMessage()
                if coming.done():
                    verdict = coming.result()
                    if verdict is None:
                        return
                    message = self._encode(verdict)
                    coming = asyncio.ensure_future(anext(verdicts, None))
                await self._write(context, padding.pad(message))
        finally:
            coming.cancel()

    async def _write(self, context: Context, message: pb.ServerMessage) -> None:
        """Raises Unavailable if the edge leaves it unread for long.

        The line may be silent: an edge that is honest resumes when it hears of this.
        """
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await context.write(message)
        except TimeoutError:
            raise Unavailable(
                f"verdicts were left unread for {self._write_timeout_s:g} s: read them as they come"
            ) from None
        except WispError:
            raise
        except Exception as error:  # of gRPC's own, which has no public name: the edge has gone
            raise _Gone from error

    def caller(self, context: Context) -> Caller:
        """Who asks. Raises NotAuthenticated or Forbidden."""
        sent = dict(context.invocation_metadata() or ())
        authorization = sent.get("authorization")
        names = list(context.auth_context().get("x509_common_name") or ())
        return self._gate.caller(
            authorization if isinstance(authorization, str) else None,
            certificate=names[0].decode() if names else None,
            address=_host(context.peer()),
        )

    async def _open(
        self, requests: AsyncIterator[pb.EdgeMessage], caller: Caller
    ) -> tuple[ServerSession, bool]:
        """The session, and whether its edge takes padding."""
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                first = await anext(requests)
        except StopAsyncIteration as error:
            raise ProtocolError("a stream must begin with Open") from error
        except TimeoutError as error:  # the line may be silent: an edge that is honest resumes
            raise Unavailable(
                f"no Open came within {_OPEN_TIMEOUT_S:g} s: send it as the first message"
            ) from error
        request, hello = wire.decode_open(first)
        return self._service.open(request, hello, caller), hello.padding

    def _encode(self, verdict: Verdict) -> pb.ServerMessage:
        return wire.encode_verdict(self._stamp(verdict))

    def _stamp(self, verdict: Verdict) -> Verdict:
        """With the time until it leaves this process, where it answers a block of the edge's."""
        if not verdict.edge_drafts.num_drafted:
            return verdict
        server_time_s = verdict.server_time_s + time.monotonic() - verdict.committed_s
        self._telemetry.metrics.sessions.round_overhead_s.observe(
            server_time_s - verdict.step_time_s
        )
        return structs.replace(verdict, server_time_s=server_time_s)


def _host(peer: str) -> str:
    """Of gRPC's `ipv4:10.0.0.1:5000`, or `ipv6:[::1]:5000` with its brackets escaped."""
    _, _, address = peer.partition(":")
    return unquote(address).rpartition(":")[0].strip("[]") or peer


def max_streams(service: Service) -> int:
    return _SPARE_STREAMS + 2 * service.max_sessions


async def _parsed(requests: AsyncIterator[pb.EdgeMessage]) -> AsyncIterator[pb.EdgeMessage]:
    try:
        async for message in requests:
            yield message
    except DecodeError as error:
        raise ProtocolError("these bytes are not a message of wisp.v1") from error


async def _read_drafts(requests: AsyncIterator[pb.EdgeMessage], session: ServerSession) -> None:
    begun_s, num_covers = time.monotonic(), 0
    try:
        async for message in requests:
            if is_cover(message):
                num_covers += 1
                if num_covers > _MAX_COVERS_PER_S * (1 + time.monotonic() - begun_s):
                    raise ProtocolError(
                        f"more than {_MAX_COVERS_PER_S} messages of padding alone came in a "
                        "second: send fewer"
                    )
                continue
            session.draft(wire.decode_draft(message))
    except WispError as error:
        session.fail(error)
