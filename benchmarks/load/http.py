"""A plain HTTP client: streamed completions of token ids, at any OpenAI-compatible server."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from benchmarks.load.users import Ask, Came
from wisp.core.slo import Slo
from wisp.errors import Overloaded, Unavailable


def client(url: str) -> httpx.AsyncClient:
    # Idle connections are let go before the server lets go of them (uvicorn: after 5 s).
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
    )
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=httpx.Timeout(60.0))


class HttpClient:
    """A `Connection`. `one_way_s`: what each message takes beside the real network."""

    def __init__(
        self, client: httpx.AsyncClient, model: dict[str, Any], vocab_size: int, one_way_s: float
    ) -> None:
        self._client = client
        self._model = model["id"]
        self._is_wisp = model["owned_by"] == "wisp"
        self._vocab_size = vocab_size
        self._one_way_s = one_way_s

    async def answer(self, ask: Ask, slo: Slo) -> AsyncGenerator[Came, None]:
        sent_s = time.monotonic()
        # A distance on the way there only makes the answer later, as does one on the way back.
        late_s = 2.0 * self._one_way_s
        try:
            async with self._client.stream(
                "POST", "/v1/completions", json=self._body(ask, slo)
            ) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response)
                known = 0
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        raise Unavailable(f"the answer broke off: {chunk['error']}")
                    count = self._count(chunk, known)
                    if count:
                        known += count
                        yield Came(count, time.monotonic() + late_s)
        except httpx.HTTPError as error:
            waited_s = time.monotonic() - sent_s
            raise Unavailable(f"{type(error).__name__} after {waited_s:.1f} s") from error

    def _body(self, ask: Ask, slo: Slo) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": ask.prompt + ask.known(self._vocab_size),
            "max_tokens": ask.num_output - ask.num_done,
            "temperature": 0.0,
            "stream": True,
        }
        if self._is_wisp:
            numbers = {"tokens_per_s": slo.tokens_per_s, "first_token_s": slo.first_token_s}
            return body | {"wisp": {"slo": numbers}}
        options = {"include_usage": True, "continuous_usage_stats": True}
        return body | {"ignore_eos": True, "stream_options": options}

    def _count(self, chunk: dict[str, Any], known: int) -> int:
        """Tokens that came with it; vLLM counts those so far."""
        if self._is_wisp:
            return int(chunk.get("wisp", {}).get("tokens", 0))
        return int((chunk.get("usage") or {}).get("completion_tokens", known)) - known


def _refusal(response: httpx.Response) -> Overloaded | Unavailable:
    if response.status_code == 429:
        wait_ms = response.headers.get("retry-after-ms", "1000")
        return Overloaded("the server is full", float(wait_ms) / 1000)
    return Unavailable(f"HTTP {response.status_code}: {response.text[:200]}")
