"""From the bytes of a request to a checked schema, with OpenAI's words for what is wrong."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from wisp.openai.errors import RequestError
from wisp.openai.schemas import GenerationFields

RequestT = TypeVar("RequestT", bound=GenerationFields)

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


def parse(model: type[RequestT], body: bytes) -> RequestT:
    """Raises RequestError, naming the first field at fault."""
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {error}.", None, "invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError("The body must be a JSON object.", None, "invalid_type")
    fields = {name: value for name, value in data.items() if _is_asked_for(name, value)}
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _first(error.errors(include_url=False)) from None


def _is_asked_for(name: str, value: Any) -> bool:
    if value is None or name in IGNORED:
        return False
    if name not in UNSUPPORTED:
        return True
    if value in UNSUPPORTED[name]:
        return False
    raise RequestError(
        f"'{name}' is not supported here: leave it out.", name, "unsupported_parameter"
    )


def _first(details: list[ErrorDetails]) -> RequestError:
    # an unknown name first: it is often the misspelt name of the one that is missing
    detail = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    context = detail.get("ctx", {})
    param = context.get("param") or _path(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return RequestError(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if detail["type"] == "missing":
        message = f"Missing required parameter: '{param}'."
        return RequestError(message, param, "missing_required_parameter")
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if param is not None:
        message = f"Invalid value for '{param}': {message}"
    code = "invalid_type" if detail["type"].endswith("_type") else "invalid_value"
    return RequestError(message + ".", param, context.get("code", code))


def _path(location: tuple[int | str, ...]) -> str | None:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or None
