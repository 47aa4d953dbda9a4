"""Which names a device's own endpoint answers to.

A page in the device's browser may come from a name that its owner points at 127.0.0.1 afterwards
(DNS rebinding): the browser then lets the page read this endpoint's answers. An address is no name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wisp.errors import Forbidden
from wisp.openai.http_errors import error_response


class HostsMiddleware:
    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        """`names`: beside addresses, `localhost` and the device's own."""
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), *map(str.lower, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_own(Headers(scope=scope).get("host", "")):
            error = Forbidden(
                "This edge does not answer to that host name: use its address, or start it with "
                "--allowed_hosts."
            )
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
