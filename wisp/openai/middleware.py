"""Around the whole HTTP endpoint: an id and a line of the log for each request, and CORS."""

from __future__ import annotations

import logging
import time

from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wisp.config import ApiSettings
from wisp.logs import REQUEST_ID, REQUEST_ID_HEADER, request_id, shown
from wisp.tracing import around, tell

log = logging.getLogger("wisp.access_log")


def surrounded(app: ASGIApp, settings: ApiSettings, requests: Counter | None = None) -> ASGIApp:
    """The endpoint as it is served; `requests` counts by path and status."""
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    return around(_Requests(app, requests))


class _Requests:
    def __init__(self, app: ASGIApp, requests: Counter | None) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_id = request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        begun_s, status = time.monotonic(), 499  # nginx's code for a client that left before

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = own_id
            await send(message)

        token = REQUEST_ID.set(own_id)
        tell(request_id=own_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            time_s = round(time.monotonic() - begun_s, 6)
            if self._requests:
                # Paths that are none of the routes' may be any: each would be a time series.
                route = getattr(scope.get("route"), "path", "other")
                self._requests.labels(route, status).inc()
            method, path = shown(scope["method"]), shown(scope["path"])
            fields = {"method": method, "path": path, "status": status}
            told = f"{method} {path} {status} {time_s:.3f} s"
            log.info("%s", told, extra={"fields": {**fields, "time_s": time_s}})
            REQUEST_ID.reset(token)
