"""The listening HTTP server of either half."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from wisp.config import Listen
from wisp.errors import ConfigError

_SHUTDOWN_S = 5


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process that owns this server decides what a signal means


class HttpFront:
    def __init__(self, app: ASGIApp, listen: Listen) -> None:
        try:
            self._socket = socket.create_server((listen.host, listen.port), backlog=1024)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {listen.host}:{listen.port} for HTTP ({error.strerror}): "
                "choose another with --http.port"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                access_log=False,
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Close the socket and the idle connections; answers under way get a few seconds."""
        self._server.should_exit = True
        await self._task
