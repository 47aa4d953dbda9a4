"""Requests that are refused, with the field at fault and the code of the error."""

from __future__ import annotations

from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"model": "scripted", "prompt": "hi"},
}
MISSING = "missing_required_parameter"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
Case = tuple[dict[str, Any], str, str | None]
BOTH: list[Case] = [
    ({"colour": 1}, "colour", "unknown_parameter"),
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 3}, "model", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"min_p": 1.5}, "min_p", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
    ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
    ({"skip_special_tokens": False}, "skip_special_tokens", "unsupported_parameter"),
    ({"length_penalty": 2.0}, "length_penalty", "unsupported_parameter"),
    ({"priority": False}, "priority", "unsupported_parameter"),
    ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"stop": ""}, "stop[0]", "invalid_value"),
    ({"seed": 2**64}, "seed", "invalid_value"),
    ({"seed": -(2**63) - 1}, "seed", "invalid_value"),
    ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"logit_bias": {"5": 101}}, "logit_bias[5]", "invalid_value"),
    ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"functions": [{}]}, "functions", "unsupported_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs", "invalid_value"),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "invalid_value",
    ),
    (
        {"structured_outputs": {"structural_tag": "a"}},
        "structured_outputs.structural_tag",
        "unknown_parameter",
    ),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    (
        {"wisp": {"slo": {"tokens_per_s": 5}}},
        "wisp.slo.first_token_s",
        "missing_required_parameter",
    ),
    ({"wisp": {"slo": {"tokens_per_s": 0, "first_token_s": 1}}}, "wisp.slo.tokens_per_s", None),
    ({"wisp": {"slo": 5}}, "wisp.slo", "invalid_type"),
    ({"wisp": {"slo": ""}}, "wisp.slo", "invalid_type"),
    ({"wisp": {"drafts": 5}}, "wisp.drafts", "unknown_parameter"),
]
ONLY_CHAT: list[Case] = [
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": None}, "messages", "missing_required_parameter"),
    ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": ""}]}, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", MISSING),
    ({"tools": [{}]}, "tools[0].type", MISSING),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [TOOL]}, "tools", "invalid_value"),  # its template knows none
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
        "unsupported_value",
    ),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    (  # it was dropped unseen beside its other name
        {"messages": [{"role": "user", "content": "", "reasoning_content": "a", "reasoning": 1.5}]},
        "messages[0].reasoning",
        "invalid_type",
    ),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs", "invalid_value"),
    ({"prompt": "x"}, "prompt", "unknown_parameter"),
]
ONLY_TEXT: list[Case] = [
    ({"prompt": ["a", 2]}, "prompt", "invalid_type"),
    ({"tools": []}, "tools", "unknown_parameter"),
    ({"max_tokens": 0, "echo": False}, "max_tokens", "invalid_value"),
    ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": [99999]}, "prompt", "invalid_value"),
    ({"prompt": [2**70]}, "prompt", "invalid_value"),  # the text of the prompt was looked at first
    ({"logprobs": 21}, "logprobs", "invalid_value"),
]
CASES: list[tuple[str, dict[str, Any], str, str | None]] = [
    *[(path, *case) for path in GOOD for case in BOTH],
    *[(CHAT, *case) for case in ONLY_CHAT],
    *[(TEXT, *case) for case in ONLY_TEXT],
]
