"""The load test's own target over several workers: its weights are made in each of them."""

from __future__ import annotations

from pathlib import Path

import httpx

from benchmarks.load.servers import vllm_options, wisp_server
from benchmarks.load.target import config
from wisp.models.tokenizer import Tokenizer

SHAPE, NUM_TOKENS = "small", 24


def test_the_text_of_a_predictable_target_is_the_chain(tmp_path: Path) -> None:
    options = vllm_options(4800, shape=SHAPE, tensor_parallel=2)
    with wisp_server(
        tmp_path, shape=SHAPE, engine="vllm", options=options, max_sessions=4, profile_s=0.2
    ) as server:
        tokenizer = Tokenizer(tmp_path / "target")
        half = config(SHAPE)["vocab_size"] // 2
        for first in (100, half - NUM_TOKENS // 2, config(SHAPE)["vocab_size"] - NUM_TOKENS // 2):
            body = {"model": "target", "prompt": [7, first], "max_tokens": NUM_TOKENS}
            asked = body | {"temperature": 0.0, "ignore_eos": True}
            answer = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60.0)
            chain = [(first + n) % (2 * half) for n in range(1, NUM_TOKENS + 1)]
            assert answer.json()["choices"][0]["text"] == tokenizer.decode(chain)
