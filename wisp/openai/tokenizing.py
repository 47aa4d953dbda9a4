"""The requests of `/tokenize` and `/detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from wisp.openai.conversation import Message, Tool
from wisp.openai.fields import Json, RequestFields, Rules, Wholes, refuse
from wisp.openai.rules import ONE_INPUT


class TokenizeRequest(RequestFields):
    """vLLM's: a text, or a conversation."""

    ignored: ClassVar = ()
    unsupported: ClassVar = {
        "chat_template": (),
        "continue_final_message": (False,),
        "mm_processor_kwargs": (),
    }
    rules: ClassVar[Rules] = (ONE_INPUT,)

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    tools: list[Tool] = Field([])
    chat_template_kwargs: dict[str, Any] = Field({})
    add_generation_prompt: Literal[True] = True
    add_special_tokens: bool | None = None  # true, for a text; a template has its own
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise refuse("invalid_value", "send one of 'prompt' and 'messages'", "prompt")
        if self.messages and self.add_special_tokens:
            raise refuse("invalid_value", "it goes with a 'prompt'", "add_special_tokens")
        return self


class DetokenizeRequest(RequestFields):
    """vLLM's. The document tells the highest id, which depends on the tokenizer."""

    ignored: ClassVar = ()
    unsupported: ClassVar[Json] = {}

    model: str | None = None
    tokens: Wholes
