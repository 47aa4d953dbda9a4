"""What all request models share: how a field is refused, and which fields ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

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


class FieldsModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def refuse(code: str, message: str, param: str | None = None) -> PydanticCustomError:
    context = {"message": message, "code": code, "param": param}
    return PydanticCustomError("refused", "{message}", context)


def is_asked_for(
    name: str, value: Any, unsupported: Mapping[str, tuple[Any, ...]] = UNSUPPORTED
) -> bool:
    """False for a field that asks for nothing; an unsupported one is refused by name."""
    if value is None or name in IGNORED:
        return False
    if name not in unsupported:
        return True
    # 1 is not true here, as it is not in JSON.
    nothing = unsupported[name]
    is_bool = isinstance(value, bool)
    if any(value == known and is_bool == isinstance(known, bool) for known in nothing):
        return False
    raise PydanticCustomError("unsupported", "it is not supported here", {"param": name})
