"""What one hostile key can do, all at once and as fast as it goes.

| what nobody may hold up | kinds |
| --- | --- |
| validation and tokenizer | `bodies`, `messages` |
| streams that nobody reads | `sessions`, `unread` |
| connections | `heads`, `halves` |
| routes that others read | `scrapes` |
| names that a client chooses | `names`, and each of `sessions` |
| structures and biases | `bombs` |
| the wire | `garbage` |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from random import Random
from typing import Any

import grpc
import httpx

from wisp import wire
from wisp.core.request import Request, Sampling, Structure
from wisp.core.slo import Slo, SloChoice
from wisp.testing.local import tokenizer
from wisp.v1 import wisp_pb2_grpc

NEXT_TO_NOTHING = Slo(tokens_per_s=0.001, first_token_s=1)
PATHS = ["/metrics", "/v1/stats", "/", "/health", "/v1/models", "/openapi.json", "/tokenize"]
# Within the bounds, at them and beyond.
BOMBS: list[dict[str, Any]] = [
    {"regex": "a{0,1000000}"},
    {"regex": "(a|b|c|d){19000}"},
    {"regex": "(" * 2000 + "a" + ")" * 2000},
    {"regex": "(a?){30}a{30}"},
    {"json": {"type": "string", "maxLength": 10**9}},
    {"json": {"type": "array", "maxItems": 10_000, "items": {"type": "string"}}},
    {"json": {"anyOf": [{"const": str(number)} for number in range(3000)]}},
    {"grammar": "root ::= " + '"a" | ' * 9000 + '"a"'},
    {"choice": [str(number) for number in range(4000)]},
]
# How a call of gRPC ends.
_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
_HALF_HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n"


class Hostile:
    """Has a key. `num_slots`: of the server, of all of which it wants to have sessions."""

    def __init__(
        self, key: str, grpc_port: int, http_port: int, kinds: list[str], num_slots: int
    ) -> None:
        self._kinds = kinds
        self._auth = f"Bearer {key}"
        self._grpc, self._http = f"127.0.0.1:{grpc_port}", http_port
        self._num_slots = num_slots
        self._rng = Random(0)
        self._promises: list[SloChoice] = ["interactive", NEXT_TO_NOTHING]

    async def run(self) -> None:
        """Never returns."""
        kinds = {
            "bodies": (4, self._bodies),
            "messages": (4, self._messages),
            "heads": (2000, lambda: self._half(_HALF_HEAD)),
            "halves": (40, lambda: self._half(self._half_body())),
            "unread": (8, self._unread),
            "sessions": (self._num_slots, self._session),
            "scrapes": (4, self._scrapes),
            "names": (4, self._names),
            "bombs": (4, self._bombs),
            "garbage": (4, self._garbage),
        }
        chosen = [kinds[name] for name in self._kinds or kinds]
        tasks: list[Coroutine[Any, Any, None]] = []
        for count, begin in chosen:
            tasks += [begin() for _ in range(count)]
        await asyncio.gather(*tasks)

    def _head(self, length: int) -> bytes:
        return (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: {self._auth}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    def _half_body(self) -> bytes:
        return self._head(10**6) + b"x" * 900_000

    def _client(self) -> httpx.AsyncClient:
        url = f"http://127.0.0.1:{self._http}"
        headers = {"authorization": self._auth, "content-type": "application/json"}
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=60)

    async def _bodies(self) -> None:
        """Each would cost seconds if it were validated as it is."""
        kinds = ["1", "{}", '{"role": "user", "content": ""}', "[[[]]]", '"x"']
        async with self._client() as client:
            while True:
                item = self._rng.choice(kinds)
                items = ",".join([item] * (10**6 // len(item)))
                with contextlib.suppress(httpx.HTTPError):
                    body = f'{{"model": "scripted", "messages": [{items}]}}'
                    await client.post("/v1/chat/completions", content=body.encode())

    async def _messages(self) -> None:
        """As many empty ones as are allowed, which the tokenizer must render."""
        body = {"model": "scripted", "max_tokens": 1}
        empty = [{"role": "user", "content": ""}] * 4096
        async with self._client() as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await client.post("/v1/chat/completions", json=body | {"messages": empty})

    async def _half(self, data: bytes) -> None:
        """A request that is never finished, again and again."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._http)
                writer.write(data)
                await reader.read()
                writer.close()
            await asyncio.sleep(0.2)

    async def _unread(self) -> None:
        """A stream over HTTP whose events are left where they are."""
        asked = {"model": "scripted", "prompt": "a", "max_tokens": 30_000, "stream": True}
        body = json.dumps(asked | {"logprobs": 5}).encode()
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._http, limit=1)
                writer.write(self._head(len(body)) + body)
                await reader.read(1)
                await asyncio.sleep(20.0)
                writer.close()
            await asyncio.sleep(0.2)

    async def _session(self) -> None:
        """It takes a slot at a rate of next to nothing, and reads nothing."""
        fingerprint = tokenizer().fingerprint
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            while True:
                slo = self._rng.choice(self._promises)
                sampling = Sampling(max_tokens=30_000, seed=1, num_logprobs=20)
                request = Request(prompt=[1, 2], sampling=sampling, slo=slo)
                device = str(self._rng.random())
                hello = wire.Hello(tokenizer_fingerprint=fingerprint, device=device)
                call = stub.Generate(metadata=(("authorization", self._auth),))
                with contextlib.suppress(*_ENDED, TimeoutError):
                    await call.write(wire.encode_open(request, hello))
                    await asyncio.sleep(2.0)
                    await call.read()
                    await call.wait_for_connection()
                    async with asyncio.timeout(20.0):
                        await call.code()
                call.cancel()
                await asyncio.sleep(0.1)

    async def _scrapes(self) -> None:
        async with self._client() as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await client.get(self._rng.choice(PATHS))

    async def _names(self) -> None:
        """New ones of all that a client may name."""
        async with self._client() as client:
            while True:
                new = [str(self._rng.random()) for _ in range(6)]
                headers = {"x-request-id": new[0], "x-session-id": new[1], "x-wisp-slo": new[2]}
                if self._rng.random() < 0.5:
                    del headers["x-wisp-slo"]
                body = {"model": self._rng.choice(["scripted", new[3]]), "user": new[4]}
                path = self._rng.choice(["/v1/completions", f"/{new[5]}"])
                with contextlib.suppress(httpx.HTTPError):
                    asked = body | {"prompt": "a", "max_tokens": 1}
                    await client.post(path, json=asked, headers=headers)

    async def _bombs(self) -> None:
        """Structures and biases, over HTTP and as an edge sends them."""
        async with self._client() as client:
            while True:
                bomb = self._rng.choice(BOMBS)
                body: dict[str, Any] = {"model": "scripted", "prompt": "a", "max_tokens": 1}
                if self._rng.random() < 0.3:
                    biases = {str(number): 1.0 for number in range(60_000)}
                    body |= {"logit_bias": biases}
                else:
                    body |= {"structured_outputs": bomb}
                with contextlib.suppress(httpx.HTTPError):
                    await client.post("/v1/completions", json=body)
                ((kind, spec),) = bomb.items()
                text = spec if isinstance(spec, str) else json.dumps(spec)
                await self._open_with(Structure(kind, text))

    async def _open_with(self, structure: Structure) -> None:
        sampling = Sampling(max_tokens=1, seed=1, stop_token_ids=(2,), structure=structure)
        hello = wire.Hello(tokenizer_fingerprint=tokenizer().fingerprint)
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            stub: Any = wisp_pb2_grpc.WispStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Generate(metadata=(("authorization", self._auth),))
            with contextlib.suppress(*_ENDED):
                await call.write(wire.encode_open(Request(prompt=[1], sampling=sampling), hello))
                await call.read()
            call.cancel()

    async def _garbage(self) -> None:
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            path: Any = channel.stream_stream("/wisp.v1.Wisp/Generate", bytes, bytes)
            while True:
                call = path(metadata=(("authorization", self._auth),))
                with contextlib.suppress(*_ENDED):
                    await call.write(self._rng.randbytes(2000))
                    await call.code()


def attack(key: str, grpc_port: int, http_port: int, kinds: list[str], num_slots: int) -> None:
    """The body of a process of its own."""
    asyncio.run(Hostile(key, grpc_port, http_port, kinds, num_slots).run())
