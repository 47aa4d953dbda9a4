"""The OpenAI-compatible front: it translates, and calls one backend."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from msgspec import structs

from wisp import __version__
from wisp.core.card import ModelCard
from wisp.core.request import (
    CONVERSATION_HEADER,
    TAGS,
    Structure,
    check_conversation,
    check_tokens,
)
from wisp.core.request import Request as Asked
from wisp.errors import Unavailable
from wisp.models.tokenizer import Tokenizer
from wisp.openai.answers import Answers
from wisp.openai.backend import Backend
from wisp.openai.body import JsonRoute
from wisp.openai.chat_request import ChatRequest
from wisp.openai.completion_request import CompletionRequest
from wisp.openai.conversation import NamedTool
from wisp.openai.documented import (
    ChatCompletion,
    Detokenized,
    DocumentedApp,
    Model,
    ModelList,
    ResponseObject,
    Status,
    TextCompletion,
    Tokens,
    Version,
    answered,
    streamed,
)
from wisp.openai.fields import Json
from wisp.openai.generation_fields import GenerationFields
from wisp.openai.http_errors import DOCUMENTED, HANDLERS
from wisp.openai.parse import SLO_HEADER, to_requests, tokens_of
from wisp.openai.render import ChatRendering, CompletionRendering, Rendering
from wisp.openai.respond import Answering
from wisp.openai.responses import ResponsesRendering
from wisp.openai.responses_request import ResponsesRequest
from wisp.openai.tokenizing import DetokenizeRequest, TokenizeRequest
from wisp.openai.tool_calls import FORMATS, ToolParser, WholeJson, format_of
from wisp.openai.turns import Turns

REQUESTS = (ChatRequest, CompletionRequest, ResponsesRequest, TokenizeRequest, DetokenizeRequest)


def create_app(
    backend: Backend, *, routers: Sequence[APIRouter] = (), tool_format: str = "auto"
) -> FastAPI:
    """The endpoint of either half, with its OpenAPI document at `/openapi.json`.

    `routers` are what the half adds of its own.
    """
    app = DocumentedApp(
        REQUESTS,
        lambda: backend.tokenizer,
        title="WISP",
        version=__version__,
        exception_handlers=HANDLERS,
        responses=DOCUMENTED,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # wisp/tracing.py has them
    )
    app.state.backend, app.state.turns = backend, Turns()
    for router in (_openai(_Front(backend, tool_format)), *routers):
        app.include_router(router)
    return app


def create_operators_app(routers: Sequence[APIRouter]) -> FastAPI:
    """For a port that operators have to themselves."""
    app = FastAPI(title="WISP, for operators", version=__version__, exception_handlers=HANDLERS)
    app.state.turns = Turns()
    for router in routers:
        app.include_router(router)
    return app


def _openai(front: _Front) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=["OpenAI"])
    router.post("/v1/chat/completions", responses=streamed(ChatCompletion))(front.chat)
    router.post("/v1/completions", responses=streamed(TextCompletion))(front.complete)
    router.post("/v1/responses", responses=streamed(ResponseObject))(front.respond)
    router.post("/tokenize", responses=answered(Tokens))(front.tokenize)
    router.post("/detokenize", responses=answered(Detokenized))(front.detokenize)
    router.get("/version", responses=answered(Version))(front.version)
    router.get("/v1/models", responses=answered(ModelList))(front.models)
    router.get("/v1/models/{name:path}", responses=answered(Model))(front.one_model)
    router.get("/live", responses=answered(Status))(front.live)
    for path in ("/ready", "/health"):
        router.get(path, responses=answered(Status))(front.health)
        router.head(path, include_in_schema=False)(front.health)
    return router


class _Front:
    def __init__(self, backend: Backend, tool_format: str) -> None:
        self._backend = backend
        self._tool_format = tool_format
        # A long prompt takes seconds to tokenize: the texts of others go on meanwhile. One thread:
        # nothing says that a tokenizer may be entered twice.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def chat(self, fields: ChatRequest, request: Request) -> Response:
        """Answers to a conversation, whole or as server-sent events."""
        requests = await self._requests(fields, request)
        rendering = ChatRendering(
            *self._written(fields),
            num_each=fields.num_answers,
            num_best=fields.n,
            parser=self._parser(fields),
            parallel_calls=fields.parallel_tool_calls,
        )
        return self._answer(fields, requests, rendering)

    async def complete(self, fields: CompletionRequest, request: Request) -> Response:
        """What follows a text, or several, whole or as server-sent events."""
        requests = await self._requests(fields, request)
        each, best = fields.num_answers, fields.n
        rendering = CompletionRendering(*self._written(fields), num_each=each, num_best=best)
        return self._answer(fields, requests, rendering, echo=fields.echo)

    async def respond(self, fields: ResponsesRequest, request: Request) -> Response:
        """An answer as a list of items, whole or as typed events. Nothing is kept."""
        chat = fields.as_chat()
        requests = await self._requests(chat, request)
        rendering = ResponsesRendering(
            fields,
            *self._written(chat),
            parser=self._parser(chat),
            parallel_calls=chat.parallel_tool_calls,
        )
        return self._answer(chat, requests, rendering)

    async def models(self) -> Response:
        """The target, and its adapters as models of their own."""
        card = await self._backend.model()
        data = [_described(card, name) for name in (card.id, *card.adapters)]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, name: str) -> Response:
        """One of the models."""
        return JSONResponse(_described(await self._backend.model(), name))

    async def live(self) -> Response:
        """That the process answers, whether or not it serves: an edge may wait for its server."""
        return JSONResponse({"status": "ok"})

    async def health(self) -> Response:
        """Whether requests are served now."""
        reason = await self._backend.health()
        if reason is not None:
            raise Unavailable(reason)
        return JSONResponse({"status": "ok"})

    async def version(self) -> Response:
        """Of WISP."""
        return JSONResponse({"version": __version__})

    async def tokenize(self, fields: TokenizeRequest) -> Response:
        """The tokens of a text, or of a conversation by the target's chat template."""
        card, tokenizer = await self._backend.model(), self._backend.tokenizer
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(self._thread, tokens_of, fields, card, tokenizer)
        told = {"count": len(tokens), "max_model_len": card.max_model_len, "tokens": tokens}
        names = [tokenizer.token_name(token) for token in tokens]
        return JSONResponse(told | {"token_strs": names if fields.return_token_strs else None})

    async def detokenize(self, fields: DetokenizeRequest) -> Response:
        """The text of tokens, without special ones."""
        card = await self._backend.model()
        if fields.model is not None:
            card.adapter(fields.model)
        check_tokens(fields.tokens, len(self._backend.tokenizer), "tokens")
        loop, decode = asyncio.get_running_loop(), self._backend.tokenizer.decode
        text = await loop.run_in_executor(self._thread, decode, fields.tokens)
        return JSONResponse({"prompt": text})

    def _written(self, fields: GenerationFields) -> tuple[str, Tokenizer, int | None]:
        return fields.model, self._backend.tokenizer, fields.num_logprobs

    def _tags(self, fields: ChatRequest) -> Structure | None:
        """For calls that a model may make, where its functions ask for it and its format can."""
        tools = fields.strict_tools
        tags = self._format.tags_of(tools) if tools else None
        return Structure(TAGS, json.dumps(tags)) if tags else None

    @property
    def _format(self) -> type[ToolParser]:
        if self._tool_format != "auto":
            return FORMATS[self._tool_format]
        return format_of(self._backend.tokenizer.chat_template(with_tools=True) or "")

    def _parser(self, fields: ChatRequest) -> Callable[[], ToolParser] | None:
        if not fields.usable_tools:
            return None
        if isinstance(fields.tool_choice, NamedTool):
            return functools.partial(WholeJson, fields.tool_choice.function.name)
        if fields.tool_choice == "required":
            return WholeJson
        return self._format

    async def _requests(
        self, fields: ChatRequest | CompletionRequest, request: Request
    ) -> list[Asked]:
        card = await self._backend.model()
        tokenizer, slo = self._backend.tokenizer, request.headers.get(SLO_HEADER)
        loop = asyncio.get_running_loop()
        name = check_conversation(request.headers.get(CONVERSATION_HEADER, ""))
        tags = self._tags(fields) if isinstance(fields, ChatRequest) else None
        work = loop.run_in_executor(self._thread, to_requests, fields, card, tokenizer, slo, tags)
        return [structs.replace(asked, conversation=name) for asked in await work]

    def _answer(
        self,
        fields: GenerationFields,
        requests: list[Asked],
        rendering: Rendering,
        *,
        echo: bool = False,
    ) -> Answering:
        answers = Answers(
            backend=self._backend,
            requests=requests,
            stops=fields.stop,
            num_each=fields.num_answers,
            echo=echo,
        )
        return Answering(answers, rendering, stream=fields.stream, usage=fields.usage_in_stream)


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
