"""Bodies of hostile size and shape: refused before they cost anything."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import httpx
import pytest

from wisp.errors import BadRequest
from wisp.openai.bounds import MAX_ITEMS, check_bounds, max_body_bytes
from wisp.openai.routes import create_app
from wisp.testing.scripted_backend import ScriptedBackend

JSON = {"content-type": "application/json"}
PATHS = ["/v1/chat/completions", "/v1/completions"]


def body_of(num_bytes: int, item: str, key: str = "messages") -> bytes:
    items = ",".join([item] * (num_bytes // (len(item) + 1)))
    return f'{{"model": "scripted", "{key}": [{items}]}}'.encode()


class Watch:
    """How long the event loop was away at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.02)
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            before_s = time.thread_time()  # of this thread alone: the machine may be busy
            await asyncio.sleep(0.01)
            self.longest_s = max(self.longest_s, time.thread_time() - before_s)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        body_of(10**6, "1"),
        body_of(10**6, '"x"'),
        body_of(10**6, "{}"),
        body_of(10**6, '{"role": "user", "content": ""}'),
        body_of(10**6, "[]", "prompt"),
        body_of(10**6, "{}", "stop"),
        body_of(10**6, '"1"', "stop_token_ids"),
        json.dumps({"model": "scripted"} | {f"x{n}": 1 for n in range(80_000)}).encode(),
        json.dumps({"model": "scripted", "logit_bias": dict.fromkeys(range(60000), "x")}).encode(),
        ('{"model": "scripted", "messages": ' + "[" * 400_000 + "]" * 400_000 + "}").encode(),
        b'{"model": "scripted", "prompt": "' + b"x" * 10**6 + b'", "temperature": 1e400}',
    ],
    ids=lambda body: repr(body[:50]),
)
async def test_a_megabyte_of_anything_is_refused_at_once(
    http: httpx.AsyncClient, path: str, body: bytes
) -> None:
    """One error object was made for each element: 13 s and 700 MB for the first of these."""
    tracemalloc.start()
    async with Watch() as watch:
        answer = await http.post(path, content=body, headers=JSON)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 400
    assert len(answer.content) < 2000
    assert watch.longest_s < 0.5
    assert peak < 100 * 2**20


async def test_messages_without_a_word_do_not_hold_the_tokenizer(
    backend: ScriptedBackend, http: httpx.AsyncClient
) -> None:
    """Rendering 140,000 of them took its one thread 6 s; as many as are taken need 0.2 s."""
    empty = '{"role": "user", "content": ""}'
    for number, status in ((140_000, 413), (MAX_ITEMS + 1, 400)):
        body = body_of(number * (len(empty) + 1), empty)
        answer = await http.post("/v1/chat/completions", content=body, headers=JSON)
        assert answer.status_code == status
    messages = [{"role": "user", "content": ""}] * MAX_ITEMS
    start_s = time.process_time()
    backend.tokenizer.encode_chat(messages)
    assert time.process_time() - start_s < 2.0


async def test_the_longest_body_follows_the_context(
    http: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    limit = max_body_bytes(backend.card.max_model_len)
    for num_bytes, status in ((limit - 100, 400), (limit + 1, 413)):
        body = b'{"model": "scripted", "prompt": "' + b"x" * num_bytes + b'"}'
        answer = await http.post("/v1/completions", content=body, headers=JSON)
        assert answer.status_code == status
    assert f"longer than {limit} bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * (MAX_ITEMS + 1) + ["x"]},
        {"a": [["x"] * 1000] * 100},
        {str(n): n for n in range(MAX_ITEMS + 1)},
    ],
)
def test_too_much_is_refused(body: Any) -> None:
    with pytest.raises(BadRequest):
        check_bounds(body)


async def test_what_is_too_much_is_said(http: httpx.AsyncClient) -> None:
    """The sentence was lost: 'There was an error parsing the body.'"""
    body = {"model": "scripted", "messages": ["x"] * (MAX_ITEMS + 1)}
    answer = await http.post("/v1/chat/completions", json=body)
    assert f"at most {MAX_ITEMS} are taken" in answer.json()["error"]["message"]


def test_a_long_prompt_of_tokens_is_none_of_it() -> None:
    check_bounds({"prompt": list(range(10**6)), "messages": [{"content": "x"}] * MAX_ITEMS})


async def test_every_route_runs_on_the_loop(
    backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route in a thread meets what it reads half changed: a scrape could end a session."""
    from prometheus_client import CollectorRegistry

    from wisp.metrics import metrics_router
    from wisp.openai.page import page_router
    from wisp.server.main import PAGE, _operators  # which are behind no other name

    in_threads = []

    async def in_thread(function: Any, /, *_: Any, **__: Any) -> None:
        in_threads.append(function)

    monkeypatch.setattr("fastapi.routing.run_in_threadpool", in_thread)
    service: Any = backend
    operators = _operators(service, switchable=True)
    routers = [metrics_router(CollectorRegistry()), page_router(PAGE), operators]
    app = create_app(backend, routers=routers)
    paths = {"/", *app.openapi()["paths"]}
    assert {"/metrics", "/v1/stats", "/v1/policy", "/health", "/tokenize"} < paths
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        for path in sorted(paths):
            for method in ("GET", "POST"):
                await client.request(method, path, json={} if method == "POST" else None)
    assert in_threads == []
