"""The JSON body of a request: its type and length are checked before it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.datastructures import State
from starlette.requests import ClientDisconnect

from wisp.access.gate import CALLER, network_of
from wisp.openai.bounds import check_bounds, max_body_bytes
from wisp.openai.turns import Turn, Turns

# How long a body may take to come. Chosen: the longest one over a line of 1 MB/s, thrice.
BODY_TIMEOUT_S = 60.0
# Longer bodies are read beside the event loop, in bytes. Chosen: reading so many takes 1 ms.
_LARGE = 2**16


class JsonRequest(Request):
    """Its body, as bytes and as JSON, is what `read` and `parse` have found."""

    async def read(self, turn: Turn, max_bytes: int) -> None:
        """Raises HTTPException for what is no JSON or too long, Overloaded for too much at once."""
        self._check_type()
        self._body = await self._read(turn, max_bytes)

    async def parse(self) -> None:
        """Raises HTTPException for what is no JSON, BadRequest for more than anybody needs."""
        try:
            if len(self._body) < _LARGE:
                self._json = _parsed(self._body)
            else:
                self._json = await asyncio.to_thread(_parsed, self._body)
        except ValueError as error:
            raise HTTPException(400, f"The body is not valid JSON: {error}.") from None

    def _check_type(self) -> None:
        # Refusing other types also keeps web pages from sending requests to a device's own
        # endpoint: a browser asks the server before it sends JSON across origins.
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            message = "Send the request as JSON, with 'Content-Type: application/json'."
            raise HTTPException(415, message)

    async def _read(self, turn: Turn, limit: int) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in self.stream():
                    body += part
                    turn.hold(len(part))
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


def _parsed(body: bytes) -> Any:
    data = from_json(body, allow_inf_nan=False)
    if isinstance(data, dict | list):
        check_bounds(data)
    return data


class JsonRoute(APIRoute):
    """A route whose handler gets a `JsonRequest`.

    Until there is a response, which need not be the whole answer, it is the caller's turn.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def with_json(request: Request) -> Response:
            known = JsonRequest(request.scope, request.receive)
            turns: Turns = request.app.state.turns
            async with turns.inside(_caller_of(request)) as turn:
                await known.read(turn, await _max_bytes(request.app.state))
                async with turn.comes():
                    await known.parse()
                    return await handle(known)

        return with_json


def _caller_of(request: Request) -> str:
    """Whose turn it is: that of the key, or of the address."""
    if caller := CALLER.get():
        return caller.name
    return network_of(request.client.host) if request.client else ""


async def _max_bytes(state: State) -> int:
    """Raises what the backend does if there is no model now."""
    backend = getattr(state, "backend", None)  # operators' own port has none
    card = await backend.model() if backend else None
    return max_body_bytes(card.max_model_len if card else 0)
