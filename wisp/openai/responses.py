"""The answers of OpenAI's Responses API, whole and as events. Nothing is kept."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from wisp.openai.fields import Json
from wisp.openai.render import ChatRendering
from wisp.openai.responses_request import ResponsesRequest
from wisp.openai.text import Delta, Entry
from wisp.openai.tool_calls import Call


class ResponsesRendering(ChatRendering):
    """The answer as a list of items, and its stream as typed, numbered events."""

    object = "response"
    id_prefix = "resp"
    done = b""

    def __init__(self, asked: ResponsesRequest, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._asked = asked
        self._number = 0
        self._items: list[Json] = []
        self._text = ""
        self._said: list[Json] = []  # the log-probabilities of the text
        self._unsaid: list[Json] = []  # those of what a parser of calls still holds back
        self._message: Json | None = None
        self._reason: str | None = None

    def whole(self, answers: Sequence[Sequence[Delta]], usage: Json) -> Json:
        (deltas,) = answers
        text, calls = self.parsed("".join(delta.text for delta in deltas))
        said = self._written([entry for delta in deltas for entry in delta.logprobs])
        items = [_message(text, said)] if text or not calls else []
        self._items = [*items, *map(_function_call, calls)]
        self._reason = deltas[-1].finish_reason
        return self._response(usage)

    def first_chunks(self, num_answers: int) -> Iterator[Json]:
        for kind in ("created", "in_progress"):
            response = self._response(None) | {"status": "in_progress"}
            yield self._event(f"response.{kind}", response=response)

    def chunks(self, index: int, delta: Delta) -> Iterator[Json]:
        text, calls = self.parse_part(index, delta.text, ended=delta.finish_reason is not None)
        self._unsaid += self._written(delta.logprobs)
        if text:
            if self._message is None:
                yield from self._begin_message()
            said, self._unsaid = self._unsaid, []
            self._text += text
            self._said += said
            place = self._place()
            yield self._event("response.output_text.delta", **place, delta=text, logprobs=said)
        if calls or delta.finish_reason is not None:
            yield from self._end_message(always=not self._items and not calls)
        for call in calls:
            yield from self._called(call)
        self._reason = delta.finish_reason

    def last_chunks(self, usage: Json, *, asked: bool) -> Iterator[Json]:
        response = self._response(usage)
        yield self._event(f"response.{response['status']}", response=response)

    def failure(self, body: Json) -> Json:
        error = body["error"]
        return self._event(
            "error", code=error["code"], message=error["message"], param=error["param"]
        )

    def framed(self, data: bytes, chunk: Json) -> bytes:
        return b"event: " + str(chunk["type"]).encode() + b"\ndata: " + data + b"\n\n"

    def _written(self, entries: list[Entry]) -> list[Json]:
        written: list[Json] = (self._logprobs(entries) or {"content": []})["content"]
        return written

    def _event(self, kind: str, **fields: Any) -> Json:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _place(self) -> Json:
        assert self._message
        return {
            "item_id": self._message["id"],
            "output_index": len(self._items),
            "content_index": 0,
        }

    def _begin_message(self) -> Iterator[Json]:
        self._message = _message("", []) | {"status": "in_progress", "content": []}
        place = {"output_index": len(self._items)}
        yield self._event("response.output_item.added", **place, item=self._message)
        yield self._event("response.content_part.added", **self._place(), part=_part("", []))

    def _end_message(self, *, always: bool) -> Iterator[Json]:
        if self._message is None:
            if not always:
                return
            yield from self._begin_message()
        assert self._message
        text, said, place = self._text, self._said, self._place()
        item = _message(text, said) | {"id": self._message["id"]}
        yield self._event("response.output_text.done", **place, text=text, logprobs=said)
        yield self._event("response.content_part.done", **place, part=_part(text, said))
        index = len(self._items)
        yield self._event("response.output_item.done", output_index=index, item=item)
        self._items.append(item)
        self._message, self._text, self._said = None, "", []

    def _called(self, call: Call) -> Iterator[Json]:
        item, index = _function_call(call), len(self._items)
        begun = item | {"arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        place = {"item_id": item["id"], "output_index": index}
        kind = "response.function_call_arguments"
        yield self._event(f"{kind}.delta", **place, delta=call.arguments)
        yield self._event(f"{kind}.done", **place, arguments=call.arguments, name=call.name)
        yield self._event("response.output_item.done", output_index=index, item=item)
        self._items.append(item)

    def _response(self, usage: Json | None) -> Json:
        asked, cut = self._asked, self._reason == "length"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "error": None,
            "model": self.model,
            "output": self._items,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_logprobs": asked.top_logprobs or 0,
            "parallel_tool_calls": asked.parallel_tool_calls,
            "tool_choice": json.loads(asked.model_dump_json(include={"tool_choice"}))["tool_choice"]
            or "auto",
            "tools": [tool.model_dump() for tool in asked.tools],
            "text": {"format": asked.text.format.model_dump(by_alias=True, exclude_none=True)}
            if asked.text.format
            else {"format": {"type": "text"}},
            "store": False,
            "background": False,
            "previous_response_id": None,
            "metadata": {},
            "truncation": "disabled",
            "usage": usage and _usage(usage),
        }


def _usage(usage: Json) -> Json:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
        "wisp": usage["wisp"],
    }


def _part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _message(text: str, logprobs: list[Json]) -> Json:
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [_part(text, logprobs)],
    }


def _function_call(call: Call) -> Json:
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }
