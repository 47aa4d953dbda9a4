"""The request of `/v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import Field, model_validator

from wisp.core.request import Structure
from wisp.errors import BadRequest
from wisp.openai import rules as told
from wisp.openai.conversation import Message, NamedTool, Tool, ToolChoice
from wisp.openai.fields import Json, Rules, Whole, refuse
from wisp.openai.generation_fields import GenerationFields, NumLogprobs, ranged
from wisp.openai.tool_calls import structure_of


class ChatRequest(GenerationFields):
    rules: ClassVar[Rules] = (*GenerationFields.rules, told.TOP_LOGPROBS, told.TOOL_CHOICE)

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: Whole | None = ranged("max_tokens", None)
    logprobs: bool = False
    # The range is checked here as well as in `wisp.core.request`, which has another name for it.
    top_logprobs: NumLogprobs | None = None
    chat_template_kwargs: dict[str, Any] = Field({})
    tools: list[Tool] = Field([])
    tool_choice: ToolChoice | None = None  # auto, if there are tools
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refuse("invalid_value", "it needs 'logprobs': true", "top_logprobs")
        if self.max_tokens is None:
            self.max_tokens = self.max_completion_tokens
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise refuse("invalid_value", "it needs 'tools'", "tool_choice")
        return self

    def check(self) -> None:
        super().check()
        if self.max_completion_tokens not in (None, self.max_tokens):
            raise BadRequest(
                "max_tokens differs from max_completion_tokens: send one of them", "max_tokens"
            )
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise BadRequest("two functions of tools have the same name", "tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise BadRequest("tool_choice names none of the tools", "tool_choice")

    @property
    def strict_tools(self) -> list[Json]:
        """All functions, if one of them is strict and the model chooses whether to call any."""
        functions = [tool.function for tool in self.usable_tools]
        if self.tool_choice not in (None, "auto") or not any(f.strict for f in functions):
            return []
        return [function.model_dump(exclude_none=True) for function in functions]

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
