"""The requests of OpenAI's Responses API: each becomes the chat that asks for the same."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from wisp.openai.conversation import join_parts
from wisp.openai.fields import FieldsModel, Json, is_asked_for, refuse
from wisp.openai.schemas import ChatRequest, WispFields

# What needs answers to be kept, or would change one, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "prompt": (),
    "truncation": ("disabled",),
    "max_tool_calls": (),
}
# Of the platform's bookkeeping, and of what comes with an answer beside it.
_IGNORED = ("include", "reasoning", "prompt_cache_options")


class FunctionTool(FieldsModel):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(FieldsModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFields(FieldsModel):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class NamedFunction(FieldsModel):
    type: Literal["function"]
    name: str


class InputItem(FieldsModel):
    """A message, a call of a function, or what it returned."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Annotated[str | None, BeforeValidator(join_parts)] = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Annotated[str | None, BeforeValidator(join_parts)] = None
    summary: Any = None
    encrypted_content: Any = None

    @model_validator(mode="after")
    def _check(self) -> InputItem:
        needed = {
            "message": ("role", "content"),
            "function_call": ("call_id", "name", "arguments"),
            "function_call_output": ("call_id", "output"),
            "reasoning": (),
        }[self.type]
        for name in needed:
            if getattr(self, name) is None:
                raise refuse("missing_required_parameter", f"a '{self.type}' needs '{name}'")
        return self


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponsesRequest(FieldsModel):
    """null means that a field is not there. The answer is not kept, whatever `store` says."""

    model: str
    input: Annotated[list[InputItem], BeforeValidator(_items)] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool = False
    stream_options: Json | None = None
    store: bool | None = None
    tools: list[FunctionTool] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool = True
    text: TextFields = TextFields()
    seed: int | None = None  # WISP's, as for chats
    wisp: WispFields = WispFields()

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("store") is True:
            raise refuse("unsupported_value", "answers are not kept here: send false", "store")
        return {
            name: value
            for name, value in data.items()
            if name not in _IGNORED and is_asked_for(name, value, _UNSUPPORTED)
        } | ({"store": False} if "store" in data else {})

    def as_chat(self) -> ChatRequest:
        """The chat that asks for the same."""
        fields: Json = {
            "model": self.model,
            "messages": self._messages(),
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": self.stream,
            "seed": self.seed,
            "parallel_tool_calls": self.parallel_tool_calls,
            "wisp": self.wisp,
            "tools": [
                {"type": "function", "function": tool.model_dump(exclude={"type"})}
                for tool in self.tools
            ],
            "tool_choice": self.tool_choice,
            "response_format": self._format(),
        }
        if isinstance(self.tool_choice, NamedFunction):
            function = {"name": self.tool_choice.name}
            fields["tool_choice"] = {"type": "function", "function": function}
        return ChatRequest.model_validate(fields)

    def _messages(self) -> list[Json]:
        messages: list[Json] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        for item in self.input:
            if item.type == "message":
                messages.append({"role": item.role, "content": item.content})
            elif item.type == "function_call":
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                if messages and messages[-1]["role"] == "assistant":
                    messages[-1].setdefault("tool_calls", []).append(call)
                else:
                    messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            elif item.type == "function_call_output":
                message = {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
                messages.append(message)
        return messages

    def _format(self) -> Json | None:
        chosen = self.text.format
        if chosen is None:
            return None
        if chosen.type != "json_schema":
            return {"type": chosen.type}
        schema = {"name": chosen.name or "", "schema": chosen.schema_ or {}}
        return {"type": "json_schema", "json_schema": schema}
