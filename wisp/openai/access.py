"""Asks for keys before anything of an HTTP request is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fastapi import APIRouter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wisp.access.gate import CALLER, Caller, Gate
from wisp.access.quota import Usage
from wisp.errors import Forbidden, WispError
from wisp.openai.http_errors import error_response

# Whether a process is there, for balancers and supervisors: nothing else is told.
OPEN = frozenset({"/health", "/live", "/ready"})


def paths_of(routers: Iterable[APIRouter]) -> set[str]:
    return {str(getattr(route, "path", "")) for router in routers for route in router.routes}


class AccessMiddleware:
    """`operators`: the paths for which a key of an operator is needed.

    They are open to everybody if `operators_open`, as on a port that this machine alone reaches.
    `also_open`: paths that tell nothing, for which nobody needs a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        operators: Collection[str],
        *,
        operators_open: bool,
        also_open: Collection[str] = (),
    ) -> None:
        self._app = app
        self._gate = gate
        self._open = OPEN.union(also_open)
        self._operators = frozenset(operators)
        self._operators_open = operators_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        is_operators = scope["path"] in self._operators
        if is_operators and self._operators_open:
            await self._app(scope, receive, send)
            return
        usage: Usage | None = None

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start" and usage:
                MutableHeaders(scope=message).update(usage.headers())
            await send(message)

        app = self._app
        try:
            caller = self._caller(scope, is_operators)
            CALLER.set(caller)
            usage = caller.usage
            if scope["method"] == "POST":
                usage.check()
        except WispError as error:
            app = error_response(error)
        await app(scope, receive, send_with_limits)

    def _caller(self, scope: Scope, is_operators: bool) -> Caller:
        client = scope.get("client")
        caller = self._gate.caller(
            Headers(scope=scope).get("authorization"), address=client[0] if client else ""
        )
        if is_operators and not caller.operator:
            raise Forbidden(
                "This is for operators: send the key of one, or ask at the server's admin port."
            )
        return caller
