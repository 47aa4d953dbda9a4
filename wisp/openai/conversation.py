"""The messages of a conversation, and the tools that it may call."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from wisp.openai.fields import FieldsModel, Whole, refuse
from wisp.openai.rules import describe_message


class TextPart(BaseModel):
    """What else clients send with a part, such as annotations, is not read."""

    type: Literal["text", "input_text", "output_text"]  # the last two in the Responses API
    text: str


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


_TEXT_PARTS = ("text", "input_text", "output_text")
Content = Annotated[str, BeforeValidator(join_parts, json_schema_input_type=str | list[TextPart])]


class CalledFunction(FieldsModel):
    name: str
    arguments: str = "{}"

    def for_template(self) -> dict[str, Any]:
        """Templates write the arguments themselves, from an object.

        What a model wrote that is none stays as it wrote it: clients send it back with the answer
        that it was wrong.
        """
        try:
            data = json.loads(self.arguments or "{}")
        except ValueError:
            data = None
        return {"name": self.name, "arguments": data if isinstance(data, dict) else self.arguments}


class ToolCall(FieldsModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Whole | None = None  # of a streamed delta that was kept

    def for_template(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": self.function.for_template()}


class Message(FieldsModel):
    model_config = ConfigDict(json_schema_extra=describe_message)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # newer clients' name for the same
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        # An answer is often sent back whole, with all the fields that it leaves empty.
        if not isinstance(data, dict):
            return data
        filled = cls.model_fields.keys() - {"tool_calls"}
        kept = {
            key: value
            for key, value in data.items()
            if value is not None and (value != [] or key in filled)
        }
        if data.get("role") == "assistant":
            kept.setdefault("content", "")  # a turn without text is history like any other
        return kept

    @model_validator(mode="after")
    def _check_role(self) -> Message:
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise refuse("invalid_value", "'tool_call_id' goes with the role 'tool'")
        if self.tool_calls and self.role != "assistant":
            raise refuse("invalid_value", "'tool_calls' go with the role 'assistant'")
        return self

    def for_template(self) -> dict[str, Any]:
        data = self.model_dump(exclude_none=True, exclude={"tool_calls", "reasoning"})
        if self.reasoning is not None:
            data.setdefault("reasoning_content", self.reasoning)
        if self.role == "developer":  # OpenAI's newer word; templates know the older one
            data["role"] = "system"
        if self.tool_calls:
            data["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return data


FunctionToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(FieldsModel):
    name: FunctionToolName
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
