"""A client that goes away frees its session at once, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from wisp.testing.scripted_backend import Script, ScriptedBackend

FIELDS: dict[str, Any] = {"model": "scripted", "prompt": "hello"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 2])
async def test_leaving_frees_the_session(
    backend: ScriptedBackend, address: str, stream: bool, after: int
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("xyzw"), hang_after=after)
    async with httpx.AsyncClient(base_url=address) as client:
        asking = asyncio.create_task(
            client.post("/v1/completions", json=FIELDS | {"stream": stream})
        )
        generation = await backend.opened.get()
        await generation.hanging.wait()
        assert generation.num_closes == 0
        asking.cancel()
        await generation.closed.wait()
    assert generation.num_closes == 1


async def test_a_reader_that_leaves_between_chunks_frees_the_session(
    backend: ScriptedBackend, address: str
) -> None:
    backend.script = Script(tokens=backend.tokenizer.encode("xyzw"), hang_after=3)
    async with httpx.AsyncClient(base_url=address) as client:
        fields = FIELDS | {"stream": True}
        async with client.stream("POST", "/v1/completions", json=fields) as response:
            assert "data: " in await anext(response.aiter_lines())
        (generation,) = backend.generations
        await generation.closed.wait()
    assert generation.num_closes == 1


async def test_others_go_on(backend: ScriptedBackend, address: str) -> None:
    async with httpx.AsyncClient(base_url=address) as client:
        backend.script = Script(hang_after=0)
        leaving = asyncio.create_task(client.post("/v1/completions", json=FIELDS))
        generation = await backend.opened.get()
        backend.script = Script(tokens=backend.tokenizer.encode("xyzw"))
        leaving.cancel()
        answer = await client.post("/v1/completions", json=FIELDS)
        assert answer.json()["choices"][0]["text"] == "xyzw"
        await generation.closed.wait()
    assert [generation.num_closes for generation in backend.generations] == [1, 1]
