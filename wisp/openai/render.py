"""How the two endpoints write one answer: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from wisp.core.request import FinishReason
from wisp.models.tokenizer import Tokenizer
from wisp.openai.fields import Json
from wisp.openai.text import Delta, Entry
from wisp.openai.tool_calls import Call, ToolParser

# The log-probability of what is impossible: OpenAI's number for it, as JSON has no infinity.
_IMPOSSIBLE = -9999.0


class Rendering(ABC):
    """How the answers of one request are written: its id and time are in all chunks.

    num_logprobs: None, if the client asked for none. num_best: of the answers to each prompt, of
    `num_each`, the best so many are sent.
    """

    object: str
    chunk_object: str
    id_prefix: str
    done = b"data: [DONE]\n\n"

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        num_logprobs: int | None,
        *,
        num_each: int = 1,
        num_best: int = 1,
    ) -> None:
        self.id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.tokenizer = tokenizer
        self.num_logprobs = num_logprobs
        self._num_each, self._num_best = num_each, num_best

    def whole(self, answers: Sequence[Sequence[Delta]], usage: Json) -> Json:
        choices: list[Json] = []
        for deltas in self._best(answers):
            choice = self._choice(
                "".join(delta.text for delta in deltas),
                [entry for delta in deltas for entry in delta.logprobs],
            )
            reason = _reason(choice, deltas[-1].finish_reason)
            choices.append(choice | {"index": len(choices), "finish_reason": reason})
        return self._object(self.object, choices) | {"usage": usage}

    def chunks(self, index: int, delta: Delta) -> Iterator[Json]:
        """One for the text and one for the end of the answer, where there is either."""
        counts: Json = {
            "accepted": delta.num_accepted,
            "tokens": delta.num_tokens,
            "segments": delta.segments,
        }
        ended = delta.finish_reason is not None
        for choice in self._parts(index, delta.text, delta.logprobs, ended=ended):
            yield self._chunk(choice | {"index": index}) | {"wisp": counts}
            counts = {"accepted": 0, "tokens": 0, "segments": []}
        if ended:
            choice = self._last_choice(index) | {"index": index}
            choice["finish_reason"] = _reason(choice, delta.finish_reason)
            yield self._chunk(choice) | {"wisp": counts}

    def first_chunks(self, num_answers: int) -> Iterator[Json]:
        """What comes before all text."""
        yield from ()

    def last_chunks(self, usage: Json, *, asked: bool) -> Iterator[Json]:
        """What comes behind all text; the usage is `asked` for."""
        if asked:
            yield self._object(self.chunk_object, []) | {"usage": usage}

    def failure(self, body: Json) -> Json:
        """What tells of an error in mid-stream."""
        return body

    def framed(self, data: bytes, chunk: Json) -> bytes:
        """A chunk as a server-sent event."""
        return b"data: " + data + b"\n\n"

    def _best(self, answers: Sequence[Sequence[Delta]]) -> list[Sequence[Delta]]:
        """Those whose tokens are the likeliest in the mean, of each prompt."""
        best: list[Sequence[Delta]] = []
        for start in range(0, len(answers), self._num_each):
            each = list(answers[start : start + self._num_each])
            if self._num_best < self._num_each:
                each.sort(key=_mean_logprob, reverse=True)
            best += each[: self._num_best]
        return best

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
    def _parts(
        self, index: int, text: str, entries: list[Entry], *, ended: bool
    ) -> Iterator[Json]: ...

    @abstractmethod
    def _last_choice(self, index: int) -> Json: ...


class ChatRendering(Rendering):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(
        self,
        *arguments: Any,
        parser: Callable[[], ToolParser] | None = None,
        parallel_calls: bool = True,
        **more: Any,
    ) -> None:
        """`parser` of tool calls, one for each answer; None: the request has no tools."""
        super().__init__(*arguments, **more)
        self._parser = parser
        self._max_calls = None if parallel_calls else 1
        self._parsers: dict[int, ToolParser] = {}
        self._num_calls: dict[int, int] = {}

    def first_chunks(self, num_answers: int) -> Iterator[Json]:
        for index in range(num_answers):
            choice = self._delta({"role": "assistant", "content": ""})
            yield self._chunk(choice | {"index": index})

    def parsed(self, text: str) -> tuple[str, list[Call]]:
        """A whole answer: its text, and the calls in it."""
        if self._parser is None:
            return text, []
        parser = self._parser()
        (before, calls), (behind, last) = parser.add(text), parser.flush()
        calls = [*calls, *last][: self._max_calls]
        content = before + behind
        return (content.strip() if calls else content), calls

    def parse_part(self, index: int, text: str, *, ended: bool) -> tuple[str, list[Call]]:
        """A piece of an answer in a stream: what it makes certain."""
        if self._parser is None:
            return text, []
        parser = self._parsers.setdefault(index, self._parser())
        text, calls = parser.add(text)
        if ended:
            rest, last = parser.flush()
            text, calls = text + rest, [*calls, *last]
        known = self._num_calls.get(index, 0)
        if self._max_calls is not None:
            calls = calls[: max(0, self._max_calls - known)]
        self._num_calls[index] = known + len(calls)
        return text, calls

    def _choice(self, text: str, entries: list[Entry]) -> Json:
        content, calls = self.parsed(text)
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(entries)}
        if calls:
            message["content"] = content or None
            message["tool_calls"] = [_called(call) for call in calls]
            choice["finish_reason"] = "tool_calls"
        return choice

    def _parts(self, index: int, text: str, entries: list[Entry], *, ended: bool) -> Iterator[Json]:
        begun = self._num_calls.get(index, 0)
        content, calls = self.parse_part(index, text, ended=ended)
        logprobs = self._logprobs(entries)
        if content or entries:
            yield self._delta({"content": content}, logprobs)
        for number, call in enumerate(calls, begun):
            yield self._delta({"tool_calls": [{"index": number, **_called(call)}]})

    def _last_choice(self, index: int) -> Json:
        choice = self._delta({})
        return choice | {"finish_reason": "tool_calls"} if self._num_calls.get(index) else choice

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

    def _parts(self, index: int, text: str, entries: list[Entry], *, ended: bool) -> Iterator[Json]:
        if text or entries:
            yield self._choice(text, entries)

    def _last_choice(self, index: int) -> Json:
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": None}


def _reason(choice: Json, ended: FinishReason | None) -> str | None:
    """A limit that was reached comes first: there may have been further calls."""
    if ended is FinishReason.LENGTH:
        return ended
    return choice.get("finish_reason") or ended


def _called(call: Call) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _mean_logprob(deltas: Sequence[Delta]) -> float:
    values = [e.logprob.logprob for delta in deltas for e in delta.logprobs if e.logprob]
    return sum(values) / len(values) if values else 0.0


def _chat_logprobs(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    content = []
    for entry in entries:
        if entry.logprob is None:
            continue
        top = [_described(token, value, tokenizer) for token, value in entry.logprob.top]
        own = _described(entry.token, entry.logprob.logprob, tokenizer)
        content.append(own | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _completion_logprobs(entries: Sequence[Entry], tokenizer: Tokenizer) -> dict[str, Any]:
    """The chosen token is always among the most likely ones, as it is with OpenAI: k or k + 1."""

    def name(token: int) -> str:
        return _name(tokenizer.bytes.written(token))

    def top(entry: Entry) -> dict[str, float] | None:
        if entry.logprob is None:
            return None
        own = (entry.token, entry.logprob.logprob)
        return {name(token): _finite(value) for token, value in [*entry.logprob.top[::-1], own]}

    return {
        "tokens": [name(entry.token) for entry in entries],
        "token_logprobs": [e.logprob and _finite(e.logprob.logprob) for e in entries],
        "top_logprobs": [top(entry) for entry in entries],
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
