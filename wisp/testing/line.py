"""A line between an edge and a server that breaks as lines do: for tests and fault runs."""

from __future__ import annotations

import asyncio
import contextlib

_CHUNK = 2**14  # most bytes that are passed on at once; chosen: a record of TLS


class Line:
    """Passes on what comes to its port, to a server on this machine, until it is told not to."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = 0
        self.num_connections = 0
        self.num_bytes = 0  # passed on, both ways
        self.delay_s = 0.0  # of everything, each way
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._left: int | None = None  # bytes until it is cut

    async def start(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    def swallow(self) -> None:
        """Nothing gets through any more, either way, and nobody is told."""
        self._flows.clear()

    def mend(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Both ends see their connections reset; new ones can be made."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    def cut_after(self, num_bytes: int) -> None:
        """In the middle of whatever it passes on then."""
        self._left = num_bytes

    async def stop(self) -> None:
        self._listening.close()
        self.cut()
        self.mend()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await self._flows.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self._left is not None:
                    data, self._left = data[: self._left], self._left - len(data)
                self.num_bytes += len(data)
                sink.write(data)
                await sink.drain()
                if self._left is not None and self._left <= 0:
                    self._left = None
                    self.cut()
        sink.transport.abort()
