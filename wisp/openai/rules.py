"""Rules between the fields of a request, as JSON Schema: for the OpenAPI document alone.

The validators of the models check them; tests/openai/test_document.py compares the two. What JSON
Schema cannot say, such as that one number is at least another, `ChatRequest.check` and its like
look at once the model is known to be served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_NULL: Json = {"type": "null"}
_STRING: Json = {"type": "string"}
_TRUE: Json = {"const": True}
_NOTHING: Json = {"enum": [None, []]}
_TEXT: Json = {"type": ["string", "array"]}
_FILLED: Json = {"type": "array", "not": {"const": []}}


def _fields(*, needs: Sequence[str] = (), **schemas: Json) -> Json:
    return {"properties": schemas, "required": [*needs]}


def _either(*alternatives: Json) -> Json:
    return {"anyOf": [*alternatives]}


def describe_message(told: Json) -> None:
    """By its role. Others' fields may be there, if empty: answers are sent back whole."""
    content = told["properties"]["content"]
    content["anyOf"] = [*content["anyOf"], _NULL]
    told["required"] = ["role"]
    told["additionalProperties"] = _NOTHING
    told |= _either(
        _fields(
            needs=["content"],
            role={"enum": ["system", "developer", "user"]},
            content=_TEXT,
            tool_calls=_NOTHING,
            tool_call_id=_NULL,
        ),
        _fields(role={"const": "assistant"}, tool_call_id=_NULL),
        _fields(
            needs=["content", "tool_call_id"],
            role={"const": "tool"},
            content=_TEXT,
            tool_calls=_NOTHING,
            tool_call_id=_STRING,
        ),
    )


RESPONSE_FORMAT = _either(
    _fields(type={"enum": ["text", "json_object"]}, json_schema=_NULL),
    _fields(
        needs=["type", "json_schema"],
        type={"const": "json_schema"},
        json_schema={"type": "object"},
    ),
)
TEXT_FORMAT = _either(
    _fields(type={"enum": ["text", "json_object"]}, schema=_NULL),
    _fields(needs=["type", "schema"], type={"const": "json_schema"}, schema={"type": "object"}),
)
STREAM_OPTIONS = _either(
    _fields(needs=["stream"], stream=_TRUE),
    _fields(stream_options={"additionalProperties": {"const": False}}),
)
ONE_STRUCTURE = _either(
    _fields(response_format=_fields(type={"const": "text"})),
    _fields(structured_outputs={"additionalProperties": _NULL}),
)
# Of the OpenAI API: alternatives are told beside the chosen tokens alone, and 0 asks for none.
TOP_LOGPROBS = _either(
    _fields(needs=["logprobs"], logprobs=_TRUE),
    _fields(top_logprobs={"enum": [None, 0]}),
)
TOOL_CHOICE = _either(
    _fields(needs=["tools"], tools=_FILLED),
    _fields(tool_choice={"enum": [None, "none", "auto"]}),
)
# Of the OpenAI API: only what is echoed may be all of the answer.
MAX_TOKENS = _either(
    _fields(needs=["echo"], echo=_TRUE), _fields(max_tokens=_either(_NULL, {"minimum": 1}))
)
ONE_INPUT = _either(
    _fields(needs=["prompt"], prompt=_STRING, messages=_NULL),
    _fields(
        needs=["messages"],
        messages={"type": "array"},
        prompt=_NULL,
        add_special_tokens={"enum": [None, False]},
    ),
)
INPUT_ITEM = _either(
    _fields(needs=["role", "content"], type={"const": "message"}, role=_STRING, content=_TEXT),
    _fields(
        needs=["type", "call_id", "name", "arguments"],
        type={"const": "function_call"},
        call_id=_STRING,
        name=_STRING,
        arguments=_STRING,
    ),
    _fields(
        needs=["type", "call_id", "output"],
        type={"const": "function_call_output"},
        call_id=_STRING,
        output=_TEXT,
    ),
    _fields(needs=["type"], type={"const": "reasoning"}),
)
_REASONING = _fields(needs=["type"], type={"const": "reasoning"})
SOMETHING_ASKED = _either(
    _fields(needs=["instructions"], instructions=_STRING),
    _fields(input=_either(_STRING, {"type": "array", "contains": {"not": _REASONING}})),
)
