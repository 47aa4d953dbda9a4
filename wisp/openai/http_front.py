"""The listening HTTP server of either half."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio import constants
from collections.abc import Iterator
from functools import partial

import uvicorn
from prometheus_client import Counter
from starlette.types import ASGIApp

from wisp.config import ApiSettings, Listen
from wisp.errors import ConfigError
from wisp.openai.middleware import surrounded
from wisp.openai.protocol import HEAD_TIMEOUT_S, WRITE_TIMEOUT_S, limited
from wisp.openai.protocol import max_connections as default_max_connections
from wisp.tasks import begin, every
from wisp.tls import RELOAD_S, HttpsFiles

# How long a stopping server waits for answers that are still being sent when it has drained.
# Chosen: a client that takes longer is not reading.
_SHUTDOWN_S = 5


# Connections that may wait to be accepted. Chosen: a fleet that comes back at once, and below the
# 4096 that Linux allows by default.
_BACKLOG = 1024


# Connections that asyncio accepts at a time. Chosen: a few, as it logs a trace for each of them
# that it has no file for.
_ACCEPTS = 8
DEFAULT = ApiSettings()


class _Uvicorn(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_BACKLOG)  # which was set to what asyncio accepts at a time

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process that owns this server decides what a signal means


def _bind(listen: Listen) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With its protocol named, asyncio sets TCP_NODELAY: a token is not held back for 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


class HttpFront:
    def __init__(
        self,
        app: ASGIApp,
        listen: Listen,
        https: HttpsFiles | None = None,
        *,
        settings: ApiSettings = DEFAULT,
        requests: Counter | None = None,
        max_connections: int | None = None,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        """`requests` counts by path and status. Raises ConfigError if it cannot listen there."""
        self.lost = asyncio.Event()  # set when it has failed and answers nobody any more
        self._https = https
        self._reloading: asyncio.Task[None] | None = None
        try:
            self._socket = _bind(listen)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {listen.host}:{listen.port} for HTTP ({error.strerror}): "
                "choose another with --http.port"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            surrounded(app, settings, requests),
            access_log=False,
            http=limited(
                max_connections or default_max_connections(), head_timeout_s, write_timeout_s
            ),
            backlog=_ACCEPTS,
            timeout_keep_alive=settings.keep_alive_s,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        if https:
            constants.SSL_HANDSHAKE_TIMEOUT = HEAD_TIMEOUT_S  # uvicorn passes none on
            config.load()
            config.ssl = https.context
        self._server = _Uvicorn(config)

    def start(self) -> None:
        serve = partial(self._server.serve, sockets=[self._socket])
        self._task = begin(serve, "HTTP is not answered any more", self.lost.set)
        if self._https:
            failed = "the certificates of HTTPS could not be read again"
            self._reloading = every(RELOAD_S, self._https.reload, failed)

    async def stop(self) -> None:
        """Close the socket and the idle connections; answers under way get a few seconds."""
        if self._reloading:
            self._reloading.cancel()
        self._server.should_exit = True
        await self._task
