"""The JSON body of a request: its type and length are checked before it is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

# Of a request. Chosen: a prompt of a million tokens as JSON numbers fits, and nobody can fill the
# memory with one request.
MAX_BODY_BYTES = 16 * 2**20


class JsonRequest(Request):
    """Refuses with an HTTPException what is not JSON, or longer than `MAX_BODY_BYTES`."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._check_type()
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"The body is not valid JSON: {error}.") from None

    def _check_type(self) -> None:
        # Refusing other types also keeps web pages from sending requests to a device's own
        # endpoint: a browser asks the server before it sends JSON across origins.
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = "Send the request as JSON, with 'Content-Type: application/json'."
            raise HTTPException(415, message)

    async def _read(self) -> bytes:
        body = bytearray()
        try:
            async for part in self.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    message = f"The body is longer than {MAX_BODY_BYTES} bytes: shorten it."
                    raise HTTPException(413, message)
        except ClientDisconnect:
            # nginx's code for a client that has gone; nobody reads it
            raise HTTPException(499, "The client has gone.") from None
        return bytes(body)


class JsonRoute(APIRoute):
    """A route whose handler gets a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return with_json
