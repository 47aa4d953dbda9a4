"""The requests of the OpenAI API as WISP takes them. A field that is not here is refused.

Types are checked here; the ranges of values are those of `wisp.core.request`, for every front.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from wisp.core.request import MAX_LOGPROBS, MAX_TOP_K, RANGES, Structure
from wisp.openai.conversation import Message, NamedTool, Tool, ToolChoice
from wisp.openai.fields import FieldsModel, is_asked_for, refuse
from wisp.openai.formats import ResponseFormat, StructuredOutputs
from wisp.openai.tool_calls import structure_of

# The bounds of a seed. OpenAI's is a signed integer of 64 bits, WISP's own an unsigned one: both
# are taken, and the same 64 bits are the same seed.
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
# Answers to one prompt. Chosen: more than samplers of several answers ask for, and not so many that
# one request fills a server.
MAX_CHOICES = 16


class StreamOptions(FieldsModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: the usage so far in every chunk
    include_obfuscation: bool = False  # padding against eavesdroppers; WISP sends none


class SloFields(FieldsModel):
    tokens_per_s: float = Field(gt=0)
    first_token_s: float = Field(gt=0)


def _numbers_or_name(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value):
        return value
    return SloFields.model_validate(value)


class WispFields(FieldsModel):
    """The extension: what only WISP understands, all under the one key `wisp`."""

    slo: Annotated[SloFields | str | None, PlainValidator(_numbers_or_name)] = None
    speculation: bool = True


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _token_ids_as_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return {int(key): bias for key, bias in value.items()}
    except ValueError:
        raise refuse("invalid_value", "the keys must be token ids, written as strings") from None


def _top_k(value: Any) -> Any:
    if value == -1:
        return 0  # both mean off
    # Beyond the vocabulary it filters nothing, however large it is; the wire has not room for all.
    return min(value, MAX_TOP_K) if type(value) is int else value


def _ranged(name: str, default: Any) -> Any:
    """A field whose bounds the OpenAPI document tells, and `wisp.core.request` checks."""
    known = RANGES[name]
    told: dict[str, Any] = {"exclusiveMinimum" if known.above else "minimum": known.min}
    if known.max < math.inf:
        told["maximum"] = known.max
    return Field(default, json_schema_extra=told)


_StopString = Annotated[str, Field(min_length=1)]


class GenerationFields(FieldsModel, ABC):
    """What both endpoints take. null means that a field is not there."""

    model: str
    temperature: float = _ranged("temperature", 1.0)
    top_p: float = _ranged("top_p", 1.0)
    top_k: Annotated[int, BeforeValidator(_top_k)] = Field(0, json_schema_extra={"minimum": -1})
    min_p: float = _ranged("min_p", 0.0)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[list[_StopString], BeforeValidator(_listed)] = Field([], max_length=4)
    seed: int | None = Field(None, ge=_INT64_MIN, le=_UINT64_MAX)
    presence_penalty: float = _ranged("presence_penalty", 0.0)
    frequency_penalty: float = _ranged("frequency_penalty", 0.0)
    repetition_penalty: float = _ranged("repetition_penalty", 1.0)
    logit_bias: Annotated[dict[int, float], BeforeValidator(_token_ids_as_keys)] = Field({})
    max_tokens: int | None = _ranged("max_tokens", None)
    min_tokens: int = _ranged("min_tokens", 0)
    stop_token_ids: list[int] = Field([])
    ignore_eos: bool = False
    response_format: ResponseFormat = ResponseFormat()
    structured_outputs: StructuredOutputs = StructuredOutputs()
    wisp: WispFields = WispFields()

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if is_asked_for(name, value)}

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationFields:
        asks = self.stream_options is not None and self.stream_options != StreamOptions()
        if asks and not self.stream:
            raise refuse("invalid_value", "it needs 'stream': true", "stream_options")
        return self

    @model_validator(mode="after")
    def _check_best_of(self) -> GenerationFields:
        if self.best_of is not None and self.best_of != self.n:
            if self.best_of < self.n:
                raise refuse("invalid_value", f"it is at least n, which is {self.n}", "best_of")
            if self.stream:
                raise refuse("invalid_value", "a stream cannot know the best", "best_of")
        return self

    @model_validator(mode="after")
    def _check_structure(self) -> GenerationFields:
        if self.response_format.structure and self.structured_outputs.structure:
            raise refuse(
                "invalid_value", "send one of it and 'response_format'", "structured_outputs"
            )
        return self

    @property
    def structure(self) -> Structure | None:
        return self.response_format.structure or self.structured_outputs.structure

    @property
    def num_answers(self) -> int:
        """To each prompt; of those the best `n` are sent."""
        return self.best_of or self.n

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """How many of the most likely tokens are asked for; None: no logprobs."""

    @property
    def usage_in_stream(self) -> StreamOptions:
        return self.stream_options or StreamOptions()


class ChatRequest(GenerationFields):
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = _ranged("max_tokens", None)
    logprobs: bool = False
    # The range is checked here as well as in `wisp.core.request`, which has another name for it.
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field({})
    tools: list[Tool] = Field([])
    tool_choice: ToolChoice | None = None  # auto, if there are tools
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refuse("invalid_value", "it needs 'logprobs': true", "top_logprobs")
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise refuse(
                    "invalid_value",
                    "it differs from 'max_completion_tokens': send one of them",
                    "max_tokens",
                )
            self.max_tokens = self.max_completion_tokens
        return self

    @model_validator(mode="after")
    def _check_tool_choice(self) -> ChatRequest:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise refuse("invalid_value", "two functions have the same name", "tools")
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise refuse("invalid_value", "it needs 'tools'", "tool_choice")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise refuse("invalid_value", "it names none of 'tools'", "tool_choice")
        return self

    @property
    def usable_tools(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools

    @property
    def structure(self) -> Structure | None:
        """Of the calls, where there must be some; else what the format asks for."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            (function,) = (t.function for t in self.tools if t.function.name == name)
            return Structure("json", json.dumps(function.parameters or {"type": "object"}))
        if self.tool_choice == "required":
            tools = [tool.for_template() for tool in self.tools]
            schema = structure_of(tools, several=self.parallel_tool_calls)
            return Structure("json", json.dumps(schema))
        return super().structure

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _prompts(value: Any) -> Any:
    """One prompt or several, each a string or a list of token ids, as a list of them."""
    if isinstance(value, str) or (isinstance(value, list) and value and type(value[0]) is int):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(p, str | list) for p in value):
        raise refuse("invalid_type", "a prompt is a string or a list of token ids, or several such")
    if not all(type(token) is int for p in value if isinstance(p, list) for token in p):
        raise refuse("invalid_type", "a prompt is a string or a list of token ids, or several such")
    return value


class CompletionRequest(GenerationFields):
    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)] = Field(min_length=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class TokenizeRequest(FieldsModel):
    """vLLM's: a text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_generation_prompt: Literal[True] = True

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise refuse("invalid_value", "send one of 'prompt' and 'messages'", "prompt")
        return self


class DetokenizeRequest(FieldsModel):
    model: str | None = None
    tokens: list[int]
