"""Server-sent events, as the real SDK and as the bytes say."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from wisp.errors import Unavailable
from wisp.testing.scripted_backend import Script, ScriptedBackend

CHAT: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
TEXT: dict[str, Any] = {"model": "scripted", "prompt": "hello"}


async def events(http: httpx.AsyncClient, path: str, **fields: Any) -> list[Any]:
    async with http.stream("POST", path, json={"stream": True, **fields}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def script(backend: ScriptedBackend, text: str, **fields: Any) -> list[int]:
    tokens = backend.tokenizer.encode(text)
    backend.script = Script(tokens=tokens, **fields)
    return tokens


async def test_chat_events_are_those_of_openai(
    backend: ScriptedBackend, http: httpx.AsyncClient
) -> None:
    tokens = script(backend, "the cat sat", accepted=[2])
    options = {"include_usage": True}
    first, *texts, last, usage, done = await events(
        http, "/v1/chat/completions", stream_options=options, **CHAT
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == "the cat sat"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *texts))
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert all(chunk["usage"] is None for chunk in (first, *texts, last))
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(tokens) + 1
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in (first, *texts, last, usage)}) == 1
    assert {chunk["object"] for chunk in (first, last, usage)} == {"chat.completion.chunk"}


async def test_without_include_usage_no_chunk_speaks_of_usage(
    backend: ScriptedBackend, http: httpx.AsyncClient
) -> None:
    script(backend, "the cat")
    *chunks, done = await events(http, "/v1/completions", **TEXT)
    assert done == "[DONE]"
    assert all("usage" not in chunk for chunk in chunks)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "the cat"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_chunks_tell_draft_text_from_the_targets_own(
    backend: ScriptedBackend, http: httpx.AsyncClient
) -> None:
    tokens = script(backend, "the cat sat on the mat", accepted=[2, 0, 1])
    _, *chunks, _ = await events(http, "/v1/chat/completions", **CHAT)
    decode = backend.tokenizer.decode
    assert chunks[0]["wisp"] == {
        "accepted": 2,
        "tokens": 3,
        "segments": [[decode(tokens[:2]), True], [decode(tokens[2:3]), False]],
    }
    assert sum(chunk["wisp"]["tokens"] for chunk in chunks) == len(tokens) + 1
    assert sum(chunk["wisp"]["accepted"] for chunk in chunks) == 3
    for chunk in chunks:
        text = "".join(segment[0] for segment in chunk["wisp"]["segments"])
        assert text == chunk["choices"][0]["delta"].get("content", "")


async def test_the_sdk_reads_both_streams(backend: ScriptedBackend, sdk: AsyncOpenAI) -> None:
    script(backend, "the cat sat", accepted=[1, 1])
    chat = await sdk.chat.completions.create(stream=True, **CHAT)
    deltas = [chunk.choices[0].delta.content or "" async for chunk in chat]
    assert "".join(deltas) == "the cat sat"
    text = await sdk.completions.create(stream=True, **TEXT)
    assert "".join([chunk.choices[0].text async for chunk in text]) == "the cat sat"


async def test_an_error_in_mid_stream_is_raised_by_the_sdk(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    error = Unavailable("The engine is gone: try again.")
    tokens = script(backend, "the cat sat", error=error, error_after=2)
    stream = await sdk.chat.completions.create(stream=True, **CHAT)
    seen = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="engine is gone") as caught:
        await read()
    assert "".join(filter(None, seen)) == backend.tokenizer.decode(tokens[:2])
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "service_unavailable"
    assert backend.generations[0].num_closes == 1


async def test_an_error_in_mid_stream_ends_it_without_done(
    backend: ScriptedBackend, http: httpx.AsyncClient
) -> None:
    script(backend, "the cat sat", error=Unavailable("Gone."), error_after=1)
    *_, last = await events(http, "/v1/completions", **TEXT)
    assert last["error"]["type"] == "server_error"


async def test_an_error_before_the_first_text_is_a_status(
    backend: ScriptedBackend, sdk: AsyncOpenAI
) -> None:
    script(backend, "the cat sat", error=Unavailable("Gone."))
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk.chat.completions.create(stream=True, **CHAT)
    assert caught.value.status_code == 503
    assert backend.generations[0].num_closes == 1
