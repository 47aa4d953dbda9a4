"""The OpenAI-compatible front: it translates, and calls one backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from wisp import __version__
from wisp.core.card import ModelCard
from wisp.errors import Unavailable
from wisp.openai.backend import Backend
from wisp.openai.body import JsonRoute
from wisp.openai.http_errors import HANDLERS
from wisp.openai.parse import SLO_HEADER, to_request
from wisp.openai.render import ChatRendering, CompletionRendering, Json, Rendering
from wisp.openai.respond import Answering
from wisp.openai.schemas import ChatRequest, CompletionRequest


def create_app(backend: Backend, *, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The endpoint of either half, with its OpenAPI document at `/openapi.json`.

    `routers` are what the half adds of its own.
    """
    app = FastAPI(title="WISP", version=__version__, exception_handlers=HANDLERS)
    app.state.backend = backend
    for router in (_openai(_Front(backend)), *routers):
        app.include_router(router)
    return app


def create_operators_app(routers: Sequence[APIRouter]) -> FastAPI:
    """For a port that operators have to themselves."""
    app = FastAPI(title="WISP, for operators", version=__version__, exception_handlers=HANDLERS)
    for router in routers:
        app.include_router(router)
    return app


def _openai(front: _Front) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=["OpenAI"])
    router.post("/v1/chat/completions")(front.chat)
    router.post("/v1/completions")(front.complete)
    router.get("/v1/models")(front.models)
    router.get("/v1/models/{name:path}")(front.one_model)
    router.get("/health")(front.health)
    router.head("/health", include_in_schema=False)(front.health)
    return router


class _Front:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        # A long prompt takes seconds to tokenize: the texts of others go on meanwhile. One thread:
        # nothing says that a tokenizer may be entered twice.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def chat(self, fields: ChatRequest, request: Request) -> Response:
        """One answer to a conversation, whole or as server-sent events."""
        return await self._answer(fields, ChatRendering, request)

    async def complete(self, fields: CompletionRequest, request: Request) -> Response:
        """What follows a text, whole or as server-sent events."""
        return await self._answer(fields, CompletionRendering, request)

    async def models(self) -> Response:
        """The target, and its adapters as models of their own."""
        card = await self._backend.model()
        data = [_described(card, name) for name in (card.id, *card.adapters)]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, name: str) -> Response:
        """One of the models."""
        return JSONResponse(_described(await self._backend.model(), name))

    async def health(self) -> Response:
        """Whether requests are served now."""
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
