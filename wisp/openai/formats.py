"""What an answer must look like: OpenAI's field for it, and vLLM's."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from wisp.core.request import Structure
from wisp.openai.fields import FieldsModel, refuse
from wisp.openai.rules import RESPONSE_FORMAT

_ANY_OBJECT = Structure("json", '{"type": "object"}')


class JsonSchema(FieldsModel):
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field({}, alias="schema")
    strict: bool | None = None  # it always is


class ResponseFormat(FieldsModel):
    model_config = ConfigDict(json_schema_extra=RESPONSE_FORMAT)

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refuse("invalid_value", "'json_schema' goes with the type 'json_schema'")
        return self

    @property
    def structure(self) -> Structure | None:
        if self.json_schema is not None:
            return Structure("json", json.dumps(self.json_schema.schema_))
        return _ANY_OBJECT if self.type == "json_object" else None


class StructuredOutputs(FieldsModel):
    """vLLM's own field for the same thing."""

    # Of vLLM's API: one structure, or none.
    model_config = ConfigDict(json_schema_extra={"maxProperties": 1})

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None

    @model_validator(mode="after")
    def _check_one(self) -> StructuredOutputs:
        if len(self.model_fields_set) > 1:
            raise refuse("invalid_value", "it takes one structure")
        return self

    @property
    def structure(self) -> Structure | None:
        if self.json_ is not None:
            text = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return Structure("json", text)
        if self.regex is not None:
            return Structure("regex", self.regex)
        if self.choice is not None:
            return Structure("choice", json.dumps(self.choice))
        if self.grammar is not None:
            return Structure("grammar", self.grammar)
        return _ANY_OBJECT if self.json_object else None
