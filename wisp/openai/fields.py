"""What all request models share: how a field is refused, and which fields ask for nothing."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

# Standard fields that cannot change the answer: bookkeeping of the caller or of OpenAI's platform.
# `parallel_tool_calls` speaks only of tools, and those are refused.
IGNORED = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
# Standard fields that would change the answer, with the values of each that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "suffix": ("",),
    "echo": (False,),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}


class FieldsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def refuse(code: str, message: str, param: str | None = None) -> PydanticCustomError:
    context = {"message": message, "code": code, "param": param}
    return PydanticCustomError("refused", "{message}", context)


def is_asked_for(name: str, value: Any) -> bool:
    if value is None or name in IGNORED:
        return False
    if name not in UNSUPPORTED:
        return True
    if value in UNSUPPORTED[name]:
        return False
    raise PydanticCustomError("unsupported", "it is not supported here", {"param": name})
