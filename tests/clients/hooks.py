"""For schemathesis: each request asks for the served model, and for few tokens.

The document cannot say what a model can do. So a request that keeps to it may be refused for one of
the reasons below, and for no other.
"""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

MODEL = os.environ["WISP_MODEL"]
# Tokens of an answer. Chosen: the requests are of interest, not the texts.
MAX_TOKENS = 4
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
REASONS = [
    r"^the model's context is ",  # depends on the model
    r"^the prompt is empty",  # of tokens, which some tokenizers begin and others do not
    r"holds token -?\d+, but the model's are",
    r"^min_tokens is \d+, but at most",  # one number against another
    r"^max_tokens differs from max_completion_tokens",
    r"^best_of is at least n",
    r"^a stream cannot know the best",
    r"^two functions of tools have the same name",
    r"^tool_choice names none of the tools",
    r"^the structure",  # a grammar, an expression or a schema within a string or an object
    r"^this server's engine has no structured outputs",
    r"^a structured output ends where its structure does",
    r"^an SLO's rate and first-token time are",
    r"^there is no SLO class",
    r"^the chat template refuses",
    r"^'[a-z_]+' cannot be set from a request",
    r"has no chat template",
]


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    for schema in raw_schema["components"]["schemas"].values():
        told = schema.get("properties", {}).get("model")
        if told and schema.get("additionalProperties") == {"type": "null"}:
            named = {"const": MODEL}
            optional = "model" not in schema.get("required", ())
            schema["properties"]["model"] = (
                {"anyOf": [named, {"type": "null"}]} if optional else named
            )


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """No answer is long, and a request is none the less valid for it."""
    body = case.body
    if not isinstance(body, dict) or "tokenize" in case.path:
        return
    limits = [name for name in LIMITS if name in body]
    for name in limits:
        if type(body[name]) is int and body[name] > MAX_TOKENS:
            body[name] = MAX_TOKENS
    if not limits:
        body["max_output_tokens" if "responses" in case.path else "max_tokens"] = MAX_TOKENS


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """False: no failure after all."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    message = response.json()["error"]["message"]
    return not any(re.search(reason, message) for reason in REASONS)
