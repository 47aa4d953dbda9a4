"""The JSON body of a request: its type and length are checked before it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from wisp.errors import WispError
from wisp.openai.bounds import check_bounds, max_body_bytes

# How long a body may take to come. Chosen: the longest one over a line of 1 MB/s, thrice.
BODY_TIMEOUT_S = 60.0
# Longer bodies are read beside the event loop, in bytes. Chosen: reading so many takes 1 ms.
_LARGE = 2**16
# The context of a model that is not known yet, in tokens. Chosen: few models have a longer one.
_ANY_CONTEXT = 2**20


class JsonRequest(Request):
    """Refuses with an HTTPException what is not JSON, or longer than the model's context needs."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._check_type()
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) < _LARGE:
                return _parsed(body)
            return await asyncio.to_thread(_parsed, body)
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
        limit = await self._max_bytes()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in self.stream():
                    body += part
                    if len(body) > limit:
                        message = f"The body is longer than {limit} bytes: shorten it."
                        raise HTTPException(413, message)
        except ClientDisconnect:
            # nginx's code for a client that has gone; nobody reads it
            raise HTTPException(499, "The client has gone.") from None
        except TimeoutError:
            message = f"The body did not come within {BODY_TIMEOUT_S:g} s: send it again."
            raise HTTPException(408, message, {"connection": "close"}) from None
        return bytes(body)

    async def _max_bytes(self) -> int:
        try:
            card = await self.app.state.backend.model()
        except (AttributeError, WispError):
            return max_body_bytes(_ANY_CONTEXT)
        return max_body_bytes(card.max_model_len)


def _parsed(body: bytes) -> Any:
    data = from_json(body, allow_inf_nan=False)
    if isinstance(data, dict | list):
        check_bounds(data)
    return data


class JsonRoute(APIRoute):
    """A route whose handler gets a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return with_json
