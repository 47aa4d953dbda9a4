"""The requests of the OpenAI API as WISP takes them. A field that is not here is refused.

Types are checked here; the ranges of values are those of `wisp.core.request`, for every front.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from wisp.core.request import MAX_LOGPROBS, MAX_TOP_K, Structure
from wisp.openai.fields import FieldsModel, is_asked_for, refuse
from wisp.openai.formats import ResponseFormat, StructuredOutputs

# The bounds of a seed. OpenAI's is a signed integer of 64 bits, WISP's own an unsigned one: both
# are taken, and the same 64 bits are the same seed.
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def _join_parts(content: Any) -> Any:
    """Text parts become one string, a line each, as chat templates expect."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind != "text":
            raise refuse(
                "unsupported_value", f"content parts of type '{kind}' are not supported: send text"
            )
        else:
            raise refuse("invalid_value", 'a content part must be {"type": "text", "text": "..."}')
    return "\n".join(texts)


def _check_role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise refuse("unsupported_value", f"the role '{role}' is not supported: tools are not")
    return role


class Message(FieldsModel):
    role: Annotated[
        Literal["system", "developer", "user", "assistant"], BeforeValidator(_check_role)
    ]
    content: Annotated[str, BeforeValidator(_join_parts)]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        # An answer is often sent back whole, with all the fields that it leaves empty.
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None and value != []}


class StreamOptions(FieldsModel):
    include_usage: bool = False
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


def _only_one(value: Any) -> Any:
    if value != 1 or isinstance(value, bool):
        raise refuse("unsupported_value", "only one answer is given to a request: send 1")
    return value


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


_One = Annotated[int, BeforeValidator(_only_one)]
_StopString = Annotated[str, Field(min_length=1)]


class GenerationFields(FieldsModel, ABC):
    """What both endpoints take. null means that a field is not there."""

    model: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: Annotated[int, BeforeValidator(_top_k)] = 0
    min_p: float = 0.0
    n: _One = 1
    best_of: _One = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[list[_StopString], BeforeValidator(_listed)] = Field([], max_length=4)
    seed: int | None = Field(None, ge=_INT64_MIN, le=_UINT64_MAX)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Annotated[dict[int, float], BeforeValidator(_token_ids_as_keys)] = Field({})
    max_tokens: int | None = None
    min_tokens: int = 0
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
        if self.stream_options is not None and not self.stream:
            raise refuse("invalid_value", "it needs 'stream': true", "stream_options")
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
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """How many of the most likely tokens are asked for; None: no logprobs."""

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationFields):
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    # The range is checked here as well as in `wisp.core.request`, which has another name for it.
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
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

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _one_prompt(value: Any) -> Any:
    if isinstance(value, list) and value and not isinstance(value[0], int):
        if len(value) > 1:
            raise refuse(
                "unsupported_value", "several prompts in one request are not supported: send one"
            )
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(token) is int for token in value):
        return value
    raise refuse("invalid_type", "a prompt must be a string or a list of token ids")


class CompletionRequest(GenerationFields):
    prompt: Annotated[str | list[int], BeforeValidator(_one_prompt)]
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs
