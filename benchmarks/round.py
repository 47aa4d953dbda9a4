"""Rounds between a real wisp-server and an edge: tokens per step, and the server's own overhead.

    python -m benchmarks.round [--json] [--target DIR --draft DIR] [--requests 24]

The server runs as its own process; the edge's own objects run here, so that every verdict can be
looked at. Overhead of a round = from the arrival of its last draft block until its verdict leaves,
less the verifier's time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.setting import describe, setting
from wisp.config import TINY, EdgeConfig
from wisp.core import Sampling, Verdict
from wisp.edge.backend import EdgeBackend
from wisp.edge.drafting import DraftLoop
from wisp.edge.link import Link
from wisp.edge.main import load_drafter
from wisp.edge.predictor import ConfidencePredictor
from wisp.launch import Process
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.openai.backend import GenerationRequest

SEED = 7
MAX_TOKENS = 64


async def measure(
    address: str, prompts: list[str], draft: Path, temperature: float
) -> list[list[Verdict]]:
    """The verdicts of one generation after another."""
    config = EdgeConfig(server=address, draft=draft)
    metrics, tokenizer, link = EdgeMetrics(), Tokenizer(draft), Link(address)
    loop = DraftLoop(load_drafter(config), ConfidencePredictor(), 1, metrics)
    backend = EdgeBackend(link, loop, tokenizer, config, metrics)
    card = await backend.model()
    found = []
    for prompt in track(prompts, description=f"temperature {temperature}", transient=True):
        sampling = Sampling(
            max_tokens=MAX_TOKENS,
            seed=SEED,
            temperature=temperature,
            stop_token_ids=card.eos_token_ids,
        )
        request = GenerationRequest(prompt=tokenizer.encode(prompt), sampling=sampling)
        generation = await backend.generate(request)
        found.append([verdict async for verdict in generation])
        await generation.aclose()
    await loop.stop()
    await link.close()
    return found


def summarise(generations: list[list[Verdict]]) -> dict[str, float]:
    verdicts = [verdict for generation in generations for verdict in generation]
    rounds = [verdict for verdict in verdicts if verdict.num_drafted]
    overheads_ms = [1000 * (v.server_time_s - v.step_time_s) for v in rounds]
    steps_ms = [1000 * verdict.step_time_s for verdict in verdicts]
    return {
        "tokens_per_step": sum(len(v.tokens) for v in verdicts) / len(verdicts),
        "acceptance": sum(v.num_accepted for v in rounds) / sum(v.num_drafted for v in rounds),
        "round_overhead_ms_median": statistics.median(overheads_ms),
        "round_overhead_ms_p95": statistics.quantiles(overheads_ms, n=20)[-1],
        "step_ms_median": statistics.median(steps_ms),
        "rounds": len(rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--target", type=Path, default=TINY / "target", help="target directory")
    parser.add_argument("--draft", type=Path, default=TINY / "draft", help="drafter directory")
    parser.add_argument("--requests", type=int, default=24, help="generations of each temperature")
    options = parser.parse_args()
    held_out = json.loads((TINY / "prompts.json").read_text())
    prompts = [p["prompt"] for p in held_out if p["kind"] == "text"][: options.requests]
    result: dict[str, Any] = {"setting": setting(SEED, max_tokens=MAX_TOKENS)}
    with Process(
        "server", f"--target={options.target}", "--http.port=0", "--grpc.port=0"
    ) as server:
        address = f"127.0.0.1:{server.facts['grpc']}"
        for temperature in (0.0, 0.8):
            found = asyncio.run(measure(address, prompts, options.draft, temperature))
            result[f"temperature_{temperature}"] = summarise(found)
    if options.json:
        print(json.dumps(result))
        return
    print(describe(result.pop("setting")))
    for name, figures in result.items():
        print(
            f"{name}: {figures['tokens_per_step']:.2f} tokens per step of the target, "
            f"acceptance {figures['acceptance']:.2f}; overhead of a round: median "
            f"{figures['round_overhead_ms_median']:.2f} ms, p95 "
            f"{figures['round_overhead_ms_p95']:.2f} ms (step: {figures['step_ms_median']:.1f} ms)"
        )


if __name__ == "__main__":
    main()
