"""The request of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from wisp.errors import BadRequest
from wisp.openai import rules as told
from wisp.openai.bounds import MAX_ITEMS
from wisp.openai.fields import Json, Rules, Whole, refuse, wholes
from wisp.openai.generation_fields import GenerationFields, NumLogprobs


def _prompts(value: Any) -> Any:
    """One prompt or several, each a string or a list of token ids, as a list of them."""
    listed = isinstance(value, list)
    if isinstance(value, str) or (listed and value and type(value[0]) in (int, float)):
        value = [value]
    wrong = "a prompt is a string or a list of token ids, or several such"
    if not isinstance(value, list) or not all(isinstance(p, str | list) for p in value):
        raise refuse("invalid_type", wrong)
    value = [wholes(prompt) for prompt in value]
    if not all(type(token) is int for p in value if isinstance(p, list) for token in p):
        raise refuse("invalid_type", wrong)
    return value


_IDS: Json = {"type": "array", "items": {"type": "integer"}}


_PROMPTS: Json = {
    "anyOf": [
        {"type": "string"},
        _IDS,
        {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}},
    ],
    "not": {"const": []},
}


class CompletionRequest(GenerationFields):
    rules: ClassVar[Rules] = (*GenerationFields.rules, told.MAX_TOKENS)

    prompt: Annotated[
        list[str | list[int]], BeforeValidator(_prompts), WithJsonSchema(_PROMPTS)
    ] = Field(min_length=1)
    logprobs: NumLogprobs | None = None
    max_tokens: Whole | None = Field(None, json_schema_extra={"minimum": 0})  # of echoes
    echo: bool = False

    def check(self) -> None:
        super().check()
        num_answers = len(self.prompt) * self.num_answers
        if num_answers > MAX_ITEMS:
            raise BadRequest(
                f"{num_answers} answers are asked for, but at most {MAX_ITEMS} are given at once: "
                "send fewer prompts",
                "prompt",
            )

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs
