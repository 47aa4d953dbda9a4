"""The requests of OpenAI's Responses API: each becomes the chat that asks for the same."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from wisp.openai.chat_request import ChatRequest
from wisp.openai.conversation import Content, FunctionToolName
from wisp.openai.fields import IGNORED, FieldsModel, Json, RequestFields, Whole, refuse
from wisp.openai.generation_fields import NumLogprobs, Seed, WispFields, ranged
from wisp.openai.rules import INPUT_ITEM, SOMETHING_ASKED, TEXT_FORMAT, TOOL_CHOICE

# What brings the log-probabilities with an answer's text.
_LOGPROBS = "message.output_text.logprobs"


class FunctionTool(FieldsModel):
    type: Literal["function"]
    name: FunctionToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(FieldsModel):
    model_config = ConfigDict(json_schema_extra=TEXT_FORMAT)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise refuse("invalid_value", "'schema' goes with the type 'json_schema'")
        return self


class TextFields(FieldsModel):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class NamedFunction(FieldsModel):
    type: Literal["function"]
    name: str


class InputItem(FieldsModel):
    """A message, a call of a function, or what it returned."""

    model_config = ConfigDict(json_schema_extra=INPUT_ITEM)

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None
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


class ResponsesStreamOptions(FieldsModel):
    include_obfuscation: bool = False  # padding against eavesdroppers; WISP sends none


class ResponsesRequest(RequestFields):
    """The answer is not kept."""

    # Beside what all requests ignore: the thoughts of models that WISP does not tell apart.
    ignored: ClassVar = IGNORED - {"store"} | {"reasoning", "prompt_cache_options"}
    # What needs answers to be kept, or would change one.
    unsupported: ClassVar = {
        "store": (False,),
        "previous_response_id": (),
        "conversation": (),
        "background": (False,),
        "prompt": (),
        "truncation": ("disabled",),
        "max_tool_calls": (),
    }
    rules: ClassVar = (TOOL_CHOICE, SOMETHING_ASKED)

    model: str
    input: Annotated[
        list[InputItem],
        Field(min_length=1),
        BeforeValidator(
            _items,
            json_schema_input_type=str | Annotated[list[InputItem], Field(min_length=1)],
        ),
    ]
    instructions: str | None = None
    max_output_tokens: Whole | None = ranged("max_tokens", None)
    temperature: float = ranged("temperature", 1.0)
    top_p: float = ranged("top_p", 1.0)
    top_logprobs: NumLogprobs | None = None
    include: list[str] = Field([])  # what is not named here comes always, or never
    stream: bool = False
    stream_options: ResponsesStreamOptions | None = None
    tools: list[FunctionTool] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool = True
    text: TextFields = TextFields()
    seed: Seed | None = None  # WISP's, as for chats
    wisp: WispFields = WispFields()

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
            "logprobs": _LOGPROBS in self.include or self.top_logprobs is not None,
            "top_logprobs": self.top_logprobs,
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
