"""Runs one request and sends its answer, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wisp.core.drafts import DraftCounts, Rejection, Source
from wisp.core.request import Request
from wisp.errors import InternalError, WispError
from wisp.openai.backend import Backend, Generation
from wisp.openai.http_errors import error_body
from wisp.openai.render import Json, Rendering
from wisp.openai.text import Answer, Delta

log = logging.getLogger(__name__)
_DONE = b"data: [DONE]\n\n"


class Completion:
    """An async iterator of deltas; leaving its context frees the session, however it is left.

    At a stop string it frees the session before it gives out the last delta.
    """

    def __init__(self, generation: Generation, request: Request, answer: Answer) -> None:
        self._generation = generation
        self._verdicts = aiter(generation)
        self._request = request
        self._answer = answer
        self._finished = False
        self._closed = False
        self._stats: dict[str, float] = {}

    def __aiter__(self) -> Completion:
        return self

    async def __anext__(self) -> Delta:
        while not self._finished:
            try:
                verdict = await anext(self._verdicts)
            except StopAsyncIteration:
                raise InternalError("The generation ended without a reason.") from None
            delta = self._answer.add(verdict)
            if delta is None:
                continue
            if delta.finish_reason is not None:
                self._finished = True
                self._stats = self._generation.stats()
                await self.aclose()
            return delta
        raise StopAsyncIteration

    async def __aenter__(self) -> Completion:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._generation.aclose()

    def usage(self) -> dict[str, Any]:
        """OpenAI's counts, and WISP's own under the key `wisp`."""
        counts = self._answer.counts
        num_prompt = len(self._request.prompt)
        steps, alone_s = counts.num_steps, counts.alone_time_s
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": counts.num_tokens,
            "total_tokens": num_prompt + counts.num_tokens,
            "wisp": {
                "seed": self._request.sampling.seed,
                "steps": steps,
                **_draft_usage(counts.drafts),
                **_rejection_usage(counts.rejections),
                "tokens_per_step": counts.num_tokens / steps if steps else None,
                "mean_step_s": counts.step_time_s / steps if steps else None,
                "interference": counts.step_time_s / alone_s if alone_s else None,
                **self._generation.attainment.usage(),
                **self._stats,
            },
        }


def _draft_usage(drafts: dict[Source, DraftCounts]) -> dict[str, Any]:
    """An edge's drafts under plain names, those of other sources under theirs."""
    edge = drafts[Source.EDGE]
    usage: dict[str, Any] = {
        "acceptance": edge.num_accepted / edge.num_drafted if edge.num_drafted else None
    }
    for source, counts in drafts.items():
        prefix = "" if source is Source.EDGE else f"{source}_"
        usage[f"{prefix}drafted_tokens"] = counts.num_drafted
        usage[f"{prefix}accepted_tokens"] = counts.num_accepted
    return usage


def _rejection_usage(rejections: dict[Rejection, int]) -> dict[str, int]:
    seamless = rejections[Rejection.SEAMLESS]
    return {
        "rejections": sum(rejections.values()),
        "covered_rejections": rejections[Rejection.COVERED] + seamless,
        "avoided_stalls": seamless,
    }


class Answering(Response):
    """Generates while it is sent, so that a client that goes away frees its session at once."""

    def __init__(
        self,
        backend: Backend,
        request: Request,
        rendering: Rendering,
        *,
        stops: list[str],
        stream: bool,
        include_usage: bool,
    ) -> None:
        # Response.__init__ is not called: there is no body to set up yet.
        self.background = None
        self._backend = backend
        self._request = request
        self._rendering = rendering
        self._stops = stops
        self._stream = stream
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _until_client_leaves(receive, self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request
        answer = Answer(self._backend.tokenizer, request.sampling, self._stops, request.prompt)
        generation = await self._backend.generate(self._request)
        async with Completion(generation, self._request, answer) as completion:
            if self._stream:
                await self._send_events(completion, send)
            else:
                deltas = [delta async for delta in completion]
                body = self._rendering.whole(deltas, completion.usage())
                headers = self._seed_header() | {"content-type": "application/json"}
                response = Response(msgspec.json.encode(body), headers=headers)
                await response(scope, receive, send)

    async def _send_events(self, completion: Completion, send: Send) -> None:
        first = await anext(completion)  # until here an error is an HTTP status
        await send(self._stream_start())
        try:
            for chunk in self._rendering.first_chunks():
                await self._send_chunk(chunk, send)
            await self._send_delta(first, send)
            async for delta in completion:
                await self._send_delta(delta, send)
            if self._include_usage:
                await _send_event(self._rendering.usage_chunk(completion.usage()), send)
            await _send_bytes(_DONE, send)
        except WispError as error:
            await _send_event(error_body(error), send)
        except Exception:
            log.exception("a stream failed")
            failure = InternalError("The server failed; its log says why.")
            await _send_event(error_body(failure), send)
        await _send_bytes(b"", send, more=False)

    async def _send_delta(self, delta: Delta, send: Send) -> None:
        for chunk in self._rendering.chunks(delta):
            await self._send_chunk(chunk, send)

    async def _send_chunk(self, chunk: Json, send: Send) -> None:
        # When the usage is asked for, OpenAI's other chunks say that theirs is still to come.
        await _send_event(chunk | {"usage": None} if self._include_usage else chunk, send)

    def _seed_header(self) -> dict[str, str]:
        return {"x-wisp-seed": str(self._request.sampling.seed)}

    def _stream_start(self) -> Json:
        headers = self._seed_header() | {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # nginx would hold the events back
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": raw}


async def _send_event(data: Json, send: Send) -> None:
    await _send_bytes(b"data: " + msgspec.json.encode(data) + b"\n\n", send)


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
