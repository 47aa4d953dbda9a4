"""What all requests for text take. A field that no request knows is refused.

Types are checked here; the ranges of values are those of `wisp.core.request`, for every front.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from wisp.core.request import BIAS_RANGE, MAX_LOGPROBS, MAX_TOKEN_IDS, MAX_TOP_K, RANGES, Structure
from wisp.errors import BadRequest
from wisp.openai import rules as told
from wisp.openai.fields import FieldsModel, Json, RequestFields, Rules, Whole, Wholes, refuse, whole
from wisp.openai.formats import ResponseFormat, StructuredOutputs

# The bounds of a seed. OpenAI's is a signed integer of 64 bits, WISP's own an unsigned one: both
# are taken, and the same 64 bits are the same seed.
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1
# Answers to one prompt. Chosen: more than samplers of several answers ask for, and not so many that
# one request fills a server.
MAX_CHOICES = 16
# Stop strings, as in the OpenAI API.
_MAX_STOPS = 4
# A token's id as the name of a bias: digits, fewer than any vocabulary needs by the standard int64.
_TOKEN_ID = r"^[0-9]{1,18}$"


# The bounds stand before the validator: behind it the document would not have them.
Seed = Annotated[int, Field(ge=_INT64_MIN, le=_UINT64_MAX), BeforeValidator(whole)]
NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(whole)]
_Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(whole)]


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

    slo: Annotated[
        SloFields | str | None,
        PlainValidator(
            _numbers_or_name,
            json_schema_input_type=SloFields | Annotated[str, Field(min_length=1)] | None,
        ),
    ] = None
    speculation: bool = True


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _token_ids_as_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, int) or re.fullmatch(_TOKEN_ID, key) for key in value):
        raise refuse("invalid_value", "the keys must be token ids, written as strings")
    return {int(key): bias for key, bias in value.items()}


def _top_k(value: Any) -> Any:
    value = whole(value)
    if value == -1:
        return 0  # both mean off
    # Beyond the vocabulary it filters nothing, however large it is; the wire has not room for all.
    return min(value, MAX_TOP_K) if type(value) is int else value


def ranged(name: str, default: Any) -> Any:
    """A field whose bounds the OpenAPI document tells, and `wisp.core.request` checks."""
    known = RANGES[name]
    told: dict[str, Any] = {"exclusiveMinimum" if known.above else "minimum": known.min}
    if known.max < math.inf:
        told["maximum"] = known.max
    return Field(default, json_schema_extra=told)


_StopString = Annotated[str, Field(min_length=1)]
# An empty one would end every answer, and the OpenAI API takes a single one as a string.
_STOP: Json = {"type": "string", "minLength": 1}
_STOPS: Json = {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": _MAX_STOPS}]}
_BIASES: Json = {
    "type": "object",
    "propertyNames": {"pattern": _TOKEN_ID},
    "additionalProperties": {
        "type": "number",
        "minimum": BIAS_RANGE.min,
        "maximum": BIAS_RANGE.max,
    },
    "maxProperties": MAX_TOKEN_IDS,
}


class GenerationFields(RequestFields, ABC):
    """What both endpoints take."""

    rules: ClassVar[Rules] = (told.STREAM_OPTIONS, told.ONE_STRUCTURE)

    model: str
    temperature: float = ranged("temperature", 1.0)
    top_p: float = ranged("top_p", 1.0)
    top_k: Annotated[int, BeforeValidator(_top_k)] = Field(0, json_schema_extra={"minimum": -1})
    min_p: float = ranged("min_p", 0.0)
    n: _Choices = 1
    best_of: _Choices | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Annotated[
        list[_StopString],
        BeforeValidator(_listed),
        WithJsonSchema(_STOPS),
    ] = Field([], max_length=_MAX_STOPS)
    seed: Seed | None = None
    presence_penalty: float = ranged("presence_penalty", 0.0)
    frequency_penalty: float = ranged("frequency_penalty", 0.0)
    repetition_penalty: float = ranged("repetition_penalty", 1.0)
    logit_bias: Annotated[
        dict[int, float], BeforeValidator(_token_ids_as_keys), WithJsonSchema(_BIASES)
    ] = Field({})
    max_tokens: Whole | None = ranged("max_tokens", None)
    min_tokens: Whole = ranged("min_tokens", 0)
    stop_token_ids: Wholes = Field([], json_schema_extra={"maxItems": MAX_TOKEN_IDS})
    ignore_eos: bool = False
    response_format: ResponseFormat = ResponseFormat()
    structured_outputs: StructuredOutputs = StructuredOutputs()
    wisp: WispFields = WispFields()

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationFields:
        asks = self.stream_options is not None and self.stream_options != StreamOptions()
        if asks and not self.stream:
            raise refuse("invalid_value", "it needs 'stream': true", "stream_options")
        return self

    @model_validator(mode="after")
    def _check_structure(self) -> GenerationFields:
        if self.response_format.structure and self.structured_outputs.structure:
            raise refuse(
                "invalid_value", "send one of it and 'response_format'", "structured_outputs"
            )
        return self

    def check(self) -> None:
        """What JSON Schema cannot say, so that the OpenAPI document does not. Raises BadRequest."""
        if self.best_of is not None and self.best_of != self.n:
            if self.best_of < self.n:
                raise BadRequest(f"best_of is at least n, which is {self.n}", "best_of")
            if self.stream:
                raise BadRequest("a stream cannot know the best: leave out best_of", "best_of")

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
