"""HTTP/1.1 connections of uvicorn, none of which is held for ever by whoever does not go on."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import Counter
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from wisp.access.gate import network_of

# How long the head of a request may take to come. Chosen: it is a packet or two.
HEAD_TIMEOUT_S = 10.0
# How long a client may leave an answer unread that does not fit the socket's buffers. Chosen: what
# is waiting then, 48 KiB, is sent over any line that could carry the text as it comes.
WRITE_TIMEOUT_S = 30.0
# Connections at once. Chosen: ten for each of 400 clients, some of them idle.
MAX_CONNECTIONS = 4096
# The share of these that one address may have. Chosen: a proxy has one address for all its clients,
# and yet no address shuts the others out.
_MAX_SHARE = 0.5
# Files that the process needs for everything else. Chosen: libraries, logs, refusals under way.
_OTHER_FILES = 256


def max_connections() -> int:
    """Of HTTP, and as many of gRPC.

    There are files for all of them, once this process may open all that the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (soft - _OTHER_FILES) // 2))


def limited(limit: int, head_timeout_s: float, write_timeout_s: float) -> type[H11Protocol]:
    """The protocol class for one listening server."""
    addresses: Counter[str] = Counter()

    class LimitedProtocol(H11Protocol):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._head: asyncio.TimerHandle | None = None
            self._unread: asyncio.TimerHandle | None = None
            self._address = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = network_of(self.client[0]) if self.client else ""
            addresses[self._address] += 1
            crowded = addresses[self._address] > max(1, round(_MAX_SHARE * limit))
            if crowded or len(self.connections) > limit:
                transport.abort()
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            addresses[self._address] -= 1
            if not addresses[self._address]:
                del addresses[self._address]
            for timer in (self._head, self._unread):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._await_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(write_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread:
                self._unread.cancel()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            # What was never read keeps a closing connection open.
            self._unread = self.loop.call_later(write_timeout_s, self.transport.abort)

        def _await_head(self) -> None:
            """Between two requests the connection may be idle; a head that was begun must end."""
            if self.conn.their_state is not h11.IDLE:
                if self._head:
                    self._head.cancel()
                self._head = None
            elif self._head is None and not self.transport.is_closing():
                self._head = self.loop.call_later(head_timeout_s, self.transport.abort)

    return LimitedProtocol
