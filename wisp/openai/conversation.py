"""The messages of a conversation, and the tools that it may call."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from wisp.openai.fields import FieldsModel, refuse


def join_parts(content: Any) -> Any:
    """Text parts become one string, a line each, as chat templates expect."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind not in _TEXT_PARTS:
            raise refuse(
                "unsupported_value", f"content parts of type '{kind}' are not supported: send text"
            )
        else:
            raise refuse("invalid_value", 'a content part must be {"type": "text", "text": "..."}')
    return "\n".join(texts)


_TEXT_PARTS = ("text", "input_text", "output_text")  # the last two in the Responses API


class CalledFunction(FieldsModel):
    name: str
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _is_json(cls, text: str) -> str:
        try:
            data = json.loads(text or "{}")
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise refuse("invalid_value", "it must be a JSON object, written as a string")
        return text or "{}"


class ToolCall(FieldsModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of a streamed delta that was kept

    def for_template(self) -> dict[str, Any]:
        """Templates write the arguments themselves, from an object."""
        arguments = json.loads(self.function.arguments)
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class Message(FieldsModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(join_parts)]
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        # An answer is often sent back whole, with all the fields that it leaves empty.
        if not isinstance(data, dict):
            return data
        kept = {key: value for key, value in data.items() if value is not None and value != []}
        if data.get("role") == "assistant":
            kept.setdefault("content", "")  # a turn without text is history like any other
            if "reasoning" in kept:
                kept.setdefault("reasoning_content", kept.pop("reasoning"))
        return kept

    @model_validator(mode="after")
    def _check_role(self) -> Message:
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise refuse("invalid_value", "'tool_call_id' goes with the role 'tool'")
        if self.tool_calls and self.role != "assistant":
            raise refuse("invalid_value", "'tool_calls' go with the role 'assistant'")
        return self

    def for_template(self) -> dict[str, Any]:
        data = self.model_dump(exclude_none=True, exclude={"tool_calls"})
        if self.role == "developer":  # OpenAI's newer word; templates know the older one
            data["role"] = "system"
        if self.tool_calls:
            data["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return data


class Function(FieldsModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(FieldsModel):
    type: Literal["function"]
    function: Function

    @field_validator("type", mode="before")
    @classmethod
    def _is_function(cls, kind: Any) -> Any:
        if kind != "function":
            raise refuse("unsupported_value", f"tools are functions, not '{kind}'")
        return kind

    def for_template(self) -> dict[str, Any]:
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": "function", "function": {"parameters": {}, **function}}


class FunctionName(FieldsModel):
    name: str


class NamedTool(FieldsModel):
    type: Literal["function"]
    function: FunctionName

    model_config = ConfigDict(frozen=True)


ToolChoice = Literal["none", "auto", "required"] | NamedTool
