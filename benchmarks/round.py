"""Rounds between a real wisp-server and an edge: tokens per step, and the server's own overhead.

    python -m benchmarks.round [--json] [--target DIR --draft DIR] [--requests 24]
                               [--predictor logistic|confidence] [--policy fcfs]

The server runs as its own process; the edge's own objects run here, so that every verdict can be
looked at. Overhead of a round = from the arrival of its last draft block until its verdict leaves,
less the verifier's time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.setting import describe, setting
from wisp.config import TINY, EdgeConfig
from wisp.core.drafts import Verdict
from wisp.core.request import Request, Sampling
from wisp.edge.drafter.load import load_drafter
from wisp.edge.drafting import DraftLoop
from wisp.edge.edge_backend import EdgeBackend
from wisp.edge.link import Link
from wisp.edge.predictor import ConfidencePredictor, LogisticPredictor, Predictor
from wisp.launch import Process
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
MAX_TOKENS = 64
PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "logistic": LogisticPredictor,  # an edge's own: begins with its prior, learns as it goes
    "confidence": ConfidencePredictor,
}


async def measure(
    address: str, prompts: list[str], draft: Path, temperature: float, predictor: Predictor
) -> tuple[list[list[Verdict]], float]:
    """The verdicts of one generation after another, and the seconds they took."""
    config = EdgeConfig(server=address, draft=draft)
    metrics, tokenizer, link = EdgeMetrics(), Tokenizer(draft), Link(address)
    loop = DraftLoop(load_drafter(config, Tokenizer(config.draft)), predictor, 1, metrics)
    backend = EdgeBackend(link, loop, tokenizer, config, metrics)
    card = await backend.model()
    found = []
    start_s = time.monotonic()
    for prompt in track(prompts, description=f"temperature {temperature}", transient=True):
        sampling = Sampling(
            max_tokens=MAX_TOKENS,
            seed=SEED,
            temperature=temperature,
            stop_token_ids=card.eos_token_ids,
        )
        request = Request(prompt=tokenizer.encode(prompt), sampling=sampling)
        generation = await backend.generate(request)
        found.append([verdict async for verdict in generation])
        await generation.aclose()
    time_s = time.monotonic() - start_s
    await loop.stop()
    await link.close()
    return found, time_s


def summarise(generations: list[list[Verdict]], time_s: float) -> dict[str, float]:
    verdicts = [verdict for generation in generations for verdict in generation]
    rounds = [verdict for verdict in verdicts if verdict.edge_drafts.num_drafted]
    overheads_ms = [1000 * (v.server_time_s - v.step_time_s) for v in rounds]
    steps_ms = [1000 * verdict.step_time_s for verdict in verdicts]
    num_tokens = sum(len(v.tokens) for v in verdicts)
    return {
        "tokens_per_step": num_tokens / len(verdicts),
        "tokens_per_s": num_tokens / time_s,
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
    parser.add_argument("--predictor", choices=PREDICTORS, default="logistic")
    parser.add_argument("--policy", default="fcfs", help="of the server; fcfs has a fixed window")
    options = parser.parse_args()
    held_out = json.loads((TINY / "prompts.json").read_text())
    prompts = [p["prompt"] for p in held_out if p["kind"] == "text"][: options.requests]
    result: dict[str, Any] = {
        "setting": setting(
            SEED, max_tokens=MAX_TOKENS, predictor=options.predictor, policy=options.policy
        )
    }
    with Process(
        "server",
        f"--target={options.target}",
        f"--scheduling.policy={options.policy}",
        "--http.port=0",
        "--grpc.port=0",
    ) as server:
        address = f"127.0.0.1:{server.facts['grpc']}"
        for temperature in (0.0, 0.8):
            predictor = PREDICTORS[options.predictor]()
            rounds = measure(address, prompts, options.draft, temperature, predictor)
            result[f"temperature_{temperature}"] = summarise(*asyncio.run(rounds))
    if options.json:
        print(json.dumps(result))
        return
    print(describe(result.pop("setting")))
    for name, found in result.items():
        print(
            f"{name}: {found['tokens_per_step']:.2f} tokens per step of the target, "
            f"{found['tokens_per_s']:.0f} a second, acceptance {found['acceptance']:.2f}; "
            f"overhead of a round: median {found['round_overhead_ms_median']:.2f} ms, p95 "
            f"{found['round_overhead_ms_p95']:.2f} ms (step: {found['step_ms_median']:.1f} ms)"
        )


if __name__ == "__main__":
    main()
