"""What all request models share: how a field is refused, and which fields ask for nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

# Fields that cannot change the answer: bookkeeping of the caller, or of OpenAI's platform.
IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "include_reasoning",
        "cache_salt",
    }
)
# Fields that would change the answer and are not supported, with the values of each that ask for
# nothing. The first ones are OpenAI's, the others those of vLLM and of its clients.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "suffix": ("",),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "add_generation_prompt": (True,),
    "add_special_tokens": (),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logits_processors": ([],),
    "priority": (0,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


Json = dict[str, Any]
Rules = tuple[Json, ...]


class FieldsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def refuse(code: str, message: str, param: str | None = None) -> PydanticCustomError:
    context = {"message": message, "code": code, "param": param}
    return PydanticCustomError("refused", "{message}", context)


def whole(value: Any) -> Any:
    """JSON has one kind of numbers: 16.0 is the integer 16."""
    return int(value) if type(value) is float and value.is_integer() else value


def wholes(value: Any) -> Any:
    """The same of a list, at the price of a glance if its numbers are integers already."""
    if not isinstance(value, list) or all(type(item) is int for item in value):
        return value
    return [whole(item) for item in value]


Whole = Annotated[int, BeforeValidator(whole)]
Wholes = Annotated[list[int], BeforeValidator(wholes)]


class RequestFields(FieldsModel):
    """A whole request. null means that a field is not there, whatever its name.

    `rules` are JSON schemas of what its validators check of several fields together; the OpenAPI
    document tells them, and which other fields are taken because they ask for nothing.
    """

    ignored: ClassVar[Collection[str]] = IGNORED
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = UNSUPPORTED
    rules: ClassVar[Rules] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if cls._is_asked_for(name, value)}

    @classmethod
    def _is_asked_for(cls, name: str, value: Any) -> bool:
        """False for a field that asks for nothing; an unsupported one is refused by name."""
        if value is None or name in cls.ignored:
            return False
        if name not in cls.unsupported:
            return True
        # 1 is not true here, as it is not in JSON.
        is_bool = isinstance(value, bool)
        for nothing in cls.unsupported[name]:
            if value == nothing and is_bool == isinstance(nothing, bool):
                return False
        raise PydanticCustomError("unsupported", "it is not supported here", {"param": name})

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> Json:
        told = handler.resolve_ref_schema(handler(schema))
        required, properties = told.get("required", ()), told["properties"]
        for name, field in properties.items():
            if name not in required:
                properties[name] = _nullable(field)
        told["properties"] = (
            properties
            | {name: {"enum": [None, *values]} for name, values in cls.unsupported.items()}
            | {name: {"description": "Ignored."} for name in sorted(cls.ignored)}
        )
        told["additionalProperties"] = {"type": "null"}
        if cls.rules:
            told["allOf"] = list(cls.rules)
        return told


def _nullable(field: Json) -> Json:
    if {"type": "null"} in field.get("anyOf", ()):
        return field
    about = {key: field[key] for key in ("title", "description", "default") if key in field}
    return about | {"anyOf": [_without(field, about), {"type": "null"}]}


def _without(field: Json, names: Collection[str]) -> Json:
    return {key: value for key, value in field.items() if key not in names}
