"""gRPC without sockets: messages that are delayed, lost, cut and doubled as lines do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc

from wisp.edge.link import Link
from wisp.edge.security import Security
from wisp.padding import Padding
from wisp.server.servicer import WispServicer
from wisp.v1 import wisp_pb2 as pb

PING_TIMEOUT_S = 30.0  # after which gRPC gives up a silent line: 20 s until a ping, 10 s for it
WINDOW = 64  # messages that gRPC's flow control lets wait; chosen: some 10 KiB of verdicts
# What gRPC makes of a connection that breaks, as a killed server or a balancer does.
LOST = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
]


def failure(
    code: grpc.StatusCode, details: str = "lost", trailer: Any = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailer), details, "")


class _Aborted(Exception):
    pass


class _Way:
    """One direction of a stream, in order, each message after its delay."""

    def __init__(self, call: Call) -> None:
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()
        self.num_under_way = 0
        self._call = call
        self._held: deque[Any] = deque()
        self._due_s = 0.0

    def put(self, item: Any) -> None:
        self.num_under_way += 1
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._call.delay_s()
        self._due_s = max(self._due_s + 1e-6, due_s)  # equal times have no order
        loop.call_at(self._due_s, self._arrive, item)

    def _arrive(self, item: Any) -> None:
        if self._call.silent:
            self._held.append(item)
        else:
            self.arrived.put_nowait(item)

    def flush(self) -> None:
        while self._held:
            self.arrived.put_nowait(self._held.popleft())

    async def get(self) -> Any:
        item = await self.arrived.get()
        self.num_under_way -= 1
        return item


class Call:
    """A `Generate` call as both ends see it: the edge's object, and the server's context."""

    def __init__(self, replica: Replica, metadata: Any, address: str, rng: Random) -> None:
        self.silent = False
        self._replica = replica
        self._metadata = metadata
        self._address = address
        self._rng = rng
        self._base_s = rng.uniform(0.001, 0.08)
        self._up, self._down = _Way(self), _Way(self)
        self._ended = False
        self._read = asyncio.Event()
        servicer = replica.servicer
        assert servicer
        self._task = asyncio.create_task(self._serve(servicer))

    def delay_s(self) -> float:
        return self._base_s * self._rng.uniform(1.0, 1.5)

    # The edge's end.
    async def write(self, message: Any) -> None:
        if isinstance(message, pb.ServerMessage):
            await self._write_down(message)
            return
        if self._ended:
            raise asyncio.InvalidStateError
        data = message.SerializeToString()
        self._up.put(data)
        if message.HasField("draft") and self._rng.random() < 0.05:
            self._up.put(data)  # whoever resends what may be lost sends it twice

    async def done_writing(self) -> None:
        """The edge has nothing more to say, and listens still."""
        if self._ended:
            raise asyncio.InvalidStateError
        self._up.put(None)

    def __aiter__(self) -> AsyncIterator[pb.ServerMessage]:
        return self

    async def __anext__(self) -> pb.ServerMessage:
        item = await self._down.get()
        self._read.set()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopAsyncIteration
        return pb.ServerMessage.FromString(item)

    def add_done_callback(self, callback: object) -> None:
        """Its end is told once, and never covered up."""

    def cancel(self) -> None:
        self._end_edge(asyncio.CancelledError())
        self._task.cancel()

    # The server's end.
    async def _write_down(self, message: pb.ServerMessage) -> None:
        data = message.SerializeToString()
        self._down.put(data)
        while self._down.num_under_way > WINDOW and not self._ended:
            self._read.clear()
            await self._read.wait()

    async def abort(self, code: grpc.StatusCode, details: str, trailer: Any) -> None:
        self._down.put(failure(code, details, trailer))
        raise _Aborted

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        return {}

    def peer(self) -> str:
        return self._address

    async def _serve(self, servicer: WispServicer) -> None:
        self._replica.calls[self] = None
        try:
            await servicer.Generate(self._requests(), self)  # type: ignore[arg-type]
            self._down.put(None)
        except _Aborted:
            pass
        finally:
            self._replica.calls.pop(self, None)

    async def _requests(self) -> AsyncIterator[pb.EdgeMessage]:
        while (item := await self._up.get()) is not None:
            yield pb.EdgeMessage.FromString(item)

    # Faults.
    def cut(self, code: grpc.StatusCode) -> None:
        """Both ends learn of it."""
        self._end_edge(failure(code))
        self._task.cancel()

    def half_open(self, code: grpc.StatusCode) -> None:
        """The edge has gone; the server learns of it when its ping is not answered."""
        self._end_edge(failure(code))
        asyncio.get_running_loop().call_later(PING_TIMEOUT_S, self._task.cancel)

    def swallow(self, seconds: float) -> None:
        """Nothing gets through for so long; both ends give it up if that is too long."""
        self.silent = True
        loop = asyncio.get_running_loop()
        if seconds < PING_TIMEOUT_S:
            loop.call_later(seconds, self._mend)
        else:
            loop.call_later(PING_TIMEOUT_S, self.cut, grpc.StatusCode.UNAVAILABLE)

    def _mend(self) -> None:
        self.silent = False
        self._up.flush()
        self._down.flush()

    def _end_edge(self, why: BaseException) -> None:
        if not self._ended:
            self._ended = True
            self._read.set()
            self._down.arrived.put_nowait(why)


class Replica:
    """A place where a server may be; `begin` starts one there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.servicer: WispServicer | None = None
        self.calls: dict[Call, None] = {}  # in the order of their beginning
        self.trusted = True  # its certificate has not expired

    @property
    def reachable(self) -> bool:
        return self.servicer is not None and self.trusted


class _Stub:
    def __init__(self, replica: Replica, address: str, rng: Random) -> None:
        self._replica = replica
        self._address = address
        self._rng = rng

    async def GetModel(self, request: Any, timeout: float, metadata: Any) -> pb.Model:  # noqa: ASYNC109
        await asyncio.sleep(self._rng.uniform(0.001, 0.1))
        servicer = self._replica.servicer
        if servicer is None or not self._replica.reachable:
            raise failure(grpc.StatusCode.UNAVAILABLE)
        return await servicer.GetModel(request, _Asking(metadata, self._address))  # type: ignore[arg-type]

    def Generate(self, metadata: Any) -> Any:
        if not self._replica.reachable:
            return _Refused(self._rng)
        return Call(self._replica, metadata, self._address, self._rng)


class _Asking:
    """The context of a call that is answered at once."""

    def __init__(self, metadata: Any, address: str) -> None:
        self._metadata = metadata
        self._address = address

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, Any]:
        return {}

    def peer(self) -> str:
        return self._address

    async def abort(self, code: grpc.StatusCode, details: str, trailer: Any) -> None:
        raise failure(code, details, trailer)


class _Refused:
    """A call that finds nobody."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    async def write(self, message: Any) -> None:
        raise asyncio.InvalidStateError

    def __aiter__(self) -> AsyncIterator[pb.ServerMessage]:
        return self

    async def __anext__(self) -> pb.ServerMessage:
        await asyncio.sleep(self._rng.uniform(0.001, 0.02))
        raise failure(grpc.StatusCode.UNAVAILABLE)

    def add_done_callback(self, callback: object) -> None:
        pass

    def cancel(self) -> None:
        pass


class _Peer:
    def __init__(self, replica: Replica, address: str, rng: Random) -> None:
        self.stub = _Stub(replica, address, rng)

    async def close(self) -> None:
        pass


class MemoryLink(Link):
    """The edge's own link, over this network."""

    def __init__(
        self,
        replicas: list[Replica],
        address: str,
        rng: Random,
        metadata: Callable[[], tuple[tuple[str, str], ...]],
        padding: Padding | None = None,
    ) -> None:
        self.address = address
        self.padding = padding
        order = list(replicas)
        rng.shuffle(order)
        self._peers: list[Any] = [_Peer(replica, address, rng) for replica in order]
        self._security = _Security(metadata)


class _Security(Security):
    def __init__(self, metadata: Callable[[], tuple[tuple[str, str], ...]]) -> None:
        super().__init__()
        self.metadata = metadata  # type: ignore[method-assign]
