"""How the two endpoints write one answer: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from wisp.models.tokenizer import Tokenizer
from wisp.openai.text import Delta, Entry

Json = dict[str, Any]

# The log-probability of what is impossible: OpenAI's number for it, as JSON has no infinity.
_IMPOSSIBLE = -9999.0


class Rendering(ABC):
    """How one answer is written. One object for one answer: its id and time are in all chunks."""

    object: str
    chunk_object: str
    id_prefix: str

    def __init__(self, model: str, tokenizer: Tokenizer, num_logprobs: int | None) -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.tokenizer = tokenizer
        self.num_logprobs = num_logprobs

    def whole(self, deltas: Sequence[Delta], usage: Json) -> Json:
        choice = self._choice(
            "".join(delta.text for delta in deltas),
            [entry for delta in deltas for entry in delta.logprobs],
        )
        choice["finish_reason"] = deltas[-1].finish_reason
        return self._object(self.object, [choice]) | {"usage": usage}

    def chunks(self, delta: Delta) -> Iterator[Json]:
        """One for the text and one for the end of the answer, where there is either."""
        counts = {
            "accepted": delta.num_accepted,
            "tokens": delta.num_tokens,
            "segments": delta.segments,
        }
        if delta.text or delta.logprobs:
            chunk = self._chunk(self._text_choice(delta.text, delta.logprobs))
            yield chunk | {"wisp": counts}
            counts = {"accepted": 0, "tokens": 0, "segments": []}
        if delta.finish_reason is not None:
            chunk = self._chunk(self._last_choice() | {"finish_reason": delta.finish_reason})
            yield chunk | {"wisp": counts}

    def first_chunks(self) -> Iterator[Json]:
        """What comes before all text."""
        yield from ()

    def usage_chunk(self, usage: Json) -> Json:
        return self._object(self.chunk_object, []) | {"usage": usage}

    def _chunk(self, choice: Json) -> Json:
        return self._object(self.chunk_object, [choice])

    def _object(self, name: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    @abstractmethod
    def _choice(self, text: str, entries: list[Entry]) -> Json: ...

    @abstractmethod
    def _text_choice(self, text: str, entries: list[Entry]) -> Json: ...

    @abstractmethod
    def _last_choice(self) -> Json: ...


class ChatRendering(Rendering):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def first_chunks(self) -> Iterator[Json]:
        yield self._chunk(self._delta({"role": "assistant", "content": ""}))

    def _choice(self, text: str, entries: list[Entry]) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": self._logprobs(entries)}

    def _text_choice(self, text: str, entries: list[Entry]) -> Json:
        return self._delta({"content": text}, self._logprobs(entries))

    def _last_choice(self) -> Json:
        return self._delta({})

    @staticmethod
    def _delta(delta: Json, logprobs: Json | None = None) -> Json:
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, entries: list[Entry]) -> Json | None:
        return None if self.num_logprobs is None else _chat_logprobs(entries, self.tokenizer)


class CompletionRendering(Rendering):
    object = chunk_object = "text_completion"
    id_prefix = "cmpl"

    def _choice(self, text: str, entries: list[Entry]) -> Json:
        written = None
        if self.num_logprobs is not None:
            written = _completion_logprobs(entries, self.tokenizer)
        return {"index": 0, "text": text, "logprobs": written, "finish_reason": None}

    def _text_choice(self, text: str, entries: list[Entry]) -> Json:
        return self._choice(text, entries)

    def _last_choice(self) -> Json:
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": None}


def _chat_logprobs(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    content = []
    for entry in entries:
        top = [_described(token, value, tokenizer) for token, value in entry.logprob.top]
        own = _described(entry.token, entry.logprob.logprob, tokenizer)
        content.append(own | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _completion_logprobs(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokens": [_name(tokenizer.bytes.written(entry.token)) for entry in entries],
        "token_logprobs": [_finite(entry.logprob.logprob) for entry in entries],
        "top_logprobs": [
            {
                _name(tokenizer.bytes.written(token)): _finite(value)
                for token, value in entry.logprob.top
            }
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }


def _described(token: int, value: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.bytes.written(token)
    return {"token": _name(data), "logprob": _finite(value), "bytes": list(data)}


def _name(data: bytes) -> str:
    """The token's text; one that is only a part of a character is named by its bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: float) -> float:
    return max(value, _IMPOSSIBLE)
