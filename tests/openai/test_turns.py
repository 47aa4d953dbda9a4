"""Many requests of one caller: each of the others waits for one of them at most."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.waiting import wait_on_the_loop
from wisp.core.card import ModelCard
from wisp.openai.routes import create_app
from wisp.openai.turns import Turns
from wisp.testing.scripted_backend import ScriptedBackend

JSON = {"content-type": "application/json"}
NUM_HOSTILE = 20


def client(app: FastAPI, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://here")


async def ask(app: FastAPI, address: str, prompt: str) -> int:
    async with client(app, address) as one:
        body = {"model": "scripted", "prompt": prompt, "max_tokens": 1}
        return (await one.post("/v1/completions", json=body)).status_code


async def test_a_queue_of_one_caller_is_its_own(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All requests stood in one queue for the one tokenizer: two thousand before anybody else's."""
    app = create_app(backend)
    go_on, written = threading.Event(), []
    encode, model = backend.tokenizer.encode, backend.model
    num_asked = 0

    def held_encode(text: str) -> list[int]:
        assert go_on.wait(60)
        written.append(text)
        return encode(text)

    async def counted_model() -> ModelCard:
        nonlocal num_asked
        num_asked += 1
        return await model()

    monkeypatch.setattr(backend.tokenizer, "encode", held_encode)
    monkeypatch.setattr(backend, "model", counted_model)
    hostile = [
        asyncio.create_task(ask(app, "10.0.0.1", f"hostile {number}"))
        for number in range(NUM_HOSTILE)
    ]
    # Each asks for the model before its body is read, and whose turn it is once more.
    await wait_on_the_loop(lambda: num_asked == NUM_HOSTILE + 1, "one of them is tokenized")
    honest = asyncio.create_task(ask(app, "10.0.0.2", "honest"))
    await wait_on_the_loop(lambda: num_asked == NUM_HOSTILE + 3, "the honest one is queued")
    go_on.set()
    assert await asyncio.gather(honest, *hostile) == [200] * (1 + NUM_HOSTILE)
    assert written[:2] == ["hostile 0", "honest"]


async def test_bodies_under_way_have_a_bound_for_each_caller(backend: ScriptedBackend) -> None:
    """Each connection could hold the longest body there is: some GiB from one address."""
    app = create_app(backend)
    app.state.turns = Turns(max_held_bytes=2**20)
    begun, go_on = asyncio.Event(), asyncio.Event()
    whole = b'{"model": "scripted", "max_tokens": 1, "prompt": "' + b" " * 600_000 + b'x"}'

    async def slowly() -> AsyncIterator[bytes]:
        yield whole[:-1]
        begun.set()
        await go_on.wait()
        yield whole[-1:]

    async with client(app, "10.0.0.1") as one, client(app, "10.0.0.2") as other:
        post, path = one.post, "/v1/completions"
        slow = asyncio.create_task(post(path, content=slowly(), headers=JSON))
        await begun.wait()
        refused = await post(path, content=whole, headers=JSON)
        assert refused.status_code == 429
        assert "1 MiB of your requests" in refused.json()["error"]["message"]
        # Too long a prompt is all that is wrong with those that are read.
        assert (await other.post(path, content=whole, headers=JSON)).status_code == 400
        go_on.set()
        assert (await slow).status_code == 400
        assert (await post(path, content=whole, headers=JSON)).status_code == 400
