"""A chat template that knows tools, one tool, and a call of it."""

from __future__ import annotations

import json
from typing import Any

from wisp.models.tokenizer import Tokenizer

TEMPLATE = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>"
    "<tool_call>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }} {{ call.function.arguments.city }}</tool_call>"
    "{% endfor %}{% endfor %}"
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
WEATHER_FLAT: Any = {"type": "function", "strict": None, **WEATHER["function"]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def with_tools(tokenizer: Tokenizer) -> Tokenizer:
    rules = json.loads(tokenizer.rules) | {"chat_template": TEMPLATE}
    return tokenizer.with_rules(json.dumps(rules))
