"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wisp.models.tokenizer import Tokenizer
from wisp.openai.text import Entry

LOWEST = -9999.0  # OpenAI's word for impossible: JSON has no infinity


def chat(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    content = []
    for entry in entries:
        top = [_described(token, value, tokenizer) for token, value in entry.logprob.top]
        own = _described(entry.token, entry.logprob.logprob, tokenizer)
        content.append(own | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def completion(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokens": [_name(tokenizer.token_bytes(entry.token)) for entry in entries],
        "token_logprobs": [_finite(entry.logprob.logprob) for entry in entries],
        "top_logprobs": [
            {
                _name(tokenizer.token_bytes(token)): _finite(value)
                for token, value in entry.logprob.top
            }
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }


def _described(token: int, value: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": _name(data), "logprob": _finite(value), "bytes": list(data)}


def _name(data: bytes) -> str:
    """The token's text; one that is only a part of a character is named by its bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: float) -> float:
    return max(value, LOWEST)
