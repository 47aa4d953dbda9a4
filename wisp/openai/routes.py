"""The OpenAI-compatible front: it translates, and calls one backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from wisp.core.card import ModelCard
from wisp.errors import Unavailable
from wisp.openai.backend import Backend
from wisp.openai.http_errors import HANDLERS
from wisp.openai.parse import SLO_HEADER, parse, to_request
from wisp.openai.render import ChatRendering, CompletionRendering, Json, Rendering
from wisp.openai.respond import Answering
from wisp.openai.schemas import ChatRequest, CompletionRequest

# Of a request. Chosen: a prompt of a million tokens as JSON numbers fits, and nobody can fill the
# memory with one request.
MAX_BODY_BYTES = 16 * 2**20


def create_app(backend: Backend, *, extra_routes: Sequence[BaseRoute] = ()) -> Starlette:
    front = _Front(backend)
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", front.chat, methods=["POST"]),
        Route("/v1/completions", front.complete, methods=["POST"]),
        Route("/v1/models", front.models, methods=["GET"]),
        Route("/v1/models/{id:path}", front.one_model, methods=["GET"]),
        Route("/health", front.health, methods=["GET"]),
        *extra_routes,
    ]
    return Starlette(routes=routes, exception_handlers=HANDLERS)


class _Front:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # A long prompt takes seconds to tokenize: the texts of others go on meanwhile. One thread:
        # nothing says that a tokenizer may be entered twice.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def chat(self, request: Request) -> Response:
        fields = parse(ChatRequest, await json_body(request))
        return await self._answer(fields, ChatRendering, request)

    async def complete(self, request: Request) -> Response:
        fields = parse(CompletionRequest, await json_body(request))
        return await self._answer(fields, CompletionRendering, request)

    async def models(self, _: Request) -> Response:
        card = await self._backend.model()
        data = [_described(card, name) for name in (card.id, *card.adapters)]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        card = await self._backend.model()
        return JSONResponse(_described(card, request.path_params["id"]))

    async def health(self, _: Request) -> Response:
        reason = await self._backend.health()
        if reason is not None:
            raise Unavailable(reason)
        return JSONResponse({"status": "ok"})

    async def _answer(
        self, fields: ChatRequest | CompletionRequest, rendering: type[Rendering], request: Request
    ) -> Answering:
        card = await self._backend.model()
        tokenizer, slo = self._backend.tokenizer, request.headers.get(SLO_HEADER)
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(self._thread, to_request, fields, card, tokenizer, slo)
        return Answering(
            self._backend,
            asked,
            rendering(fields.model, tokenizer, fields.num_logprobs),
            stops=fields.stop,
            stream=fields.stream,
            include_usage=fields.include_usage,
        )


async def json_body(request: Request) -> bytes:
    """Raises HTTPException for another type, and for more than `MAX_BODY_BYTES`."""
    # Refusing other types also keeps web pages from sending requests to a device's own endpoint:
    # a browser asks the server before it sends JSON across origins.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Send the request as JSON, with 'Content-Type: application/json'.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is longer than {MAX_BODY_BYTES} bytes: shorten it.")
    return bytes(body)


def _described(card: ModelCard, name: str) -> Json:
    """Raises ModelNotFound."""
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "wisp",
        "max_model_len": card.max_model_len,
        "parent": card.id if card.adapter(name) else None,
    }
