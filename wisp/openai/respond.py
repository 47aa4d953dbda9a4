"""Runs one request and sends its answer, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wisp.errors import InternalError, WispError
from wisp.openai.answers import Answers
from wisp.openai.fields import Json
from wisp.openai.generation_fields import StreamOptions
from wisp.openai.http_errors import error_body
from wisp.openai.render import Rendering
from wisp.openai.text import Delta

log = logging.getLogger(__name__)


class Answering(Response):
    """Generates while it is sent, so that a client that goes away frees its sessions at once."""

    def __init__(
        self, answers: Answers, rendering: Rendering, *, stream: bool, usage: StreamOptions
    ) -> None:
        # Response.__init__ is not called: there is no body to set up yet.
        self.background = None
        self._answers = answers
        self._rendering = rendering
        self._stream = stream
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serve = self._send_events(send) if self._stream else self._send_whole(scope, receive, send)
        await _until_client_leaves(receive, serve)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        deltas: dict[int, list[Delta]] = {}
        async with contextlib.aclosing(aiter(self._answers)) as answers:
            async for index, delta in answers:
                deltas.setdefault(index, []).append(delta)
        each = [deltas[index] for index in sorted(deltas)]
        body = self._rendering.whole(each, self._answers.full_usage())
        headers = self._seed_header() | {"content-type": "application/json"}
        response = Response(msgspec.json.encode(body), headers=headers)
        await response(scope, receive, send)

    async def _send_events(self, send: Send) -> None:
        rendering = self._rendering
        async with contextlib.aclosing(aiter(self._answers)) as answers:
            index, delta = await anext(answers)  # until here an error is an HTTP status
            await send(self._stream_start())
            try:
                for chunk in rendering.first_chunks(len(self._answers.requests)):
                    await self._send_chunk(chunk, send)
                await self._send_delta(index, delta, send)
                async for index, delta in answers:
                    await self._send_delta(index, delta, send)
                for chunk in rendering.last_chunks(
                    self._answers.full_usage(), asked=self._usage.include_usage
                ):
                    await self._send(chunk, send)
                await _send_bytes(rendering.done, send)
            except WispError as error:
                await self._send(rendering.failure(error_body(error)), send)
            except Exception:
                log.exception("a stream failed")
                failure = InternalError("The server failed; its log says why.")
                await self._send(rendering.failure(error_body(failure)), send)
            await _send_bytes(b"", send, more=False)

    async def _send_delta(self, index: int, delta: Delta, send: Send) -> None:
        for chunk in self._rendering.chunks(index, delta):
            await self._send_chunk(chunk, send)

    async def _send_chunk(self, chunk: Json, send: Send) -> None:
        if self._usage.continuous_usage_stats:
            chunk = chunk | {"usage": self._answers.usage()}
        elif self._usage.include_usage:
            # OpenAI's chunks say that the usage is still to come.
            chunk = chunk | {"usage": None}
        await self._send(chunk, send)

    async def _send(self, chunk: Json, send: Send) -> None:
        await _send_bytes(self._rendering.framed(msgspec.json.encode(chunk), chunk), send)

    def _seed_header(self) -> dict[str, str]:
        return {"x-wisp-seed": str(self._answers.requests[0].sampling.seed)}

    def _stream_start(self) -> Json:
        headers = self._seed_header() | {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # nginx would hold the events back
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}


async def _send_bytes(data: bytes, send: Send, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _until_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it as soon as the client has gone; its own errors pass through."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_client_leaves(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        left = not working.done()
        working.cancel()
        await asyncio.wait((working, watching))
    if not left or not working.cancelled():
        working.result()


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
