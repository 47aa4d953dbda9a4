"""The OpenAPI document, and what whole answers look like in it: `render` writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from wisp.models.tokenizer import Tokenizer
from wisp.openai.fields import Json

_FinishReason = Literal["stop", "length", "tool_calls"]


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnsweredFunction(BaseModel):
    name: str
    arguments: str


class AnsweredCall(BaseModel):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[AnsweredCall] = Field([])


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: _FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: _FinishReason


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class ResponseObject(BaseModel):
    """Its items are those of OpenAI's Responses API: messages and calls of functions."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any]


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    parent: str | None


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None


class Detokenized(BaseModel):
    prompt: str


class Version(BaseModel):
    version: str


class Status(BaseModel):
    status: Literal["ok"]


class DocumentedApp(FastAPI):
    """Its document tells each request exactly, and the errors that are really sent.

    FastAPI's own writes bounds as floats, which the largest seed is none of, and its own error.
    """

    def __init__(
        self, requests: Sequence[type[BaseModel]], tokenizer: Callable[[], Tokenizer], **more: Any
    ) -> None:
        """`tokenizer`: the served one, whose rules an edge learns after its start."""
        super().__init__(**more)
        self._requests, self._tokenizer = requests, tokenizer
        self._told = ""

    def openapi(self) -> Json:
        tokenizer = self._tokenizer()
        if self._told != tokenizer.fingerprint:
            self._told, self.openapi_schema = tokenizer.fingerprint, None
            document = super().openapi()
            _, told = models_json_schema(
                [(model, "validation") for model in self._requests],
                ref_template="#/components/schemas/{model}",
            )
            _tell_of(tokenizer, told["$defs"])
            schemas = document["components"]["schemas"]
            schemas |= told["$defs"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
        return self.openapi_schema or {}


def _tell_of(tokenizer: Tokenizer, schemas: Json) -> None:
    """What is taken depends on it."""
    fields = {name: schema.get("properties", {}) for name, schema in schemas.items()}
    ids = fields["DetokenizeRequest"]["tokens"]["items"]
    ids |= {"minimum": 0, "maximum": len(tokenizer) - 1}
    free = {"not": {"enum": sorted(tokenizer.reserved_variables)}}
    for name in ("ChatRequest", "TokenizeRequest"):
        fields[name]["chat_template_kwargs"]["propertyNames"] = free
    if not tokenizer.knows_tools:
        none: Json = {
            "enum": [None, []],
            "description": "The model's chat template knows no tools.",
        }
        for name in ("ChatRequest", "TokenizeRequest", "ResponsesRequest"):
            fields[name]["tools"] = none


def answered(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A route's success."""
    return {200: {"description": "The answer.", "model": model}}


def streamed(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A route's success: whole, or as server-sent events."""
    # OpenAPI 3.1 has no words for the events of a stream.
    content: Json = {"text/event-stream": {}}
    return {200: {"description": "The answer.", "model": model, "content": content}}
