"""Do edges that lie about their drafts take speed from honest ones?

    python -m benchmarks.liars [--json] [--seconds 15]

A real wisp-server, and edges in this process whose drafts are replayed: the target's text, which
was recorded before, each token right with probability 0.7. A liar drafts rubbish and reports that
all of it will be accepted. The honest edges' rate is taken beside five more users of three kinds:
none, honest ones who do without drafts, and liars.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console

from benchmarks.setting import describe, setting
from wisp.config import TINY, EdgeConfig
from wisp.core.request import Request, Sampling
from wisp.edge.drafter.base import DraftJob
from wisp.edge.drafting import DraftLoop
from wisp.edge.edge_backend import EdgeBackend
from wisp.edge.link import Link
from wisp.edge.predictor import ConfidencePredictor, Features, LogisticPredictor
from wisp.launch import Process
from wisp.metrics import EdgeMetrics
from wisp.models.tokenizer import Tokenizer
from wisp.testing.drafter import ScriptedDrafter

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
NUM_HONEST, NUM_MORE = 20, 5
NUM_TOKENS = 128
ACCEPTANCE = 0.7
DRAFT_TIME_S = 0.01  # of a token
WARM_S = 4.0
RATE = 3.0  # tokens a second promised to each: what the machine can hold for all of them
Kind = Literal["none", "plain", "liars"]


class Liar(ConfidencePredictor):
    def acceptance(self, features: Features) -> float:
        return 1.0


@dataclass
class Edge:
    """One user: the same request again and again."""

    address: str
    prompt: list[int]
    text: list[int] = field(default_factory=list)  # the target's, once it is known
    lies: bool = False
    drafts: bool = True
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # (when, tokens)

    async def run(self, number: int, end_s: float) -> None:
        config = EdgeConfig(server=self.address)
        metrics, link = EdgeMetrics(), Link(self.address)
        drafter = ScriptedDrafter(
            self._truth, acceptance=0.0 if self.lies else ACCEPTANCE, seed=number, on_step=_work
        )
        predictor = Liar() if self.lies else LogisticPredictor()
        loop = DraftLoop(drafter, predictor, 1, metrics)
        backend = EdgeBackend(link, loop, Tokenizer(TINY / "draft"), config, metrics)
        await backend.model()
        while time.monotonic() < end_s:
            self.text += await self._generate(backend, end_s)
        await loop.stop()
        await link.close()

    async def _generate(self, backend: EdgeBackend, end_s: float) -> list[int]:
        """The text, if it was not known before."""
        known = bool(self.text)
        sampling = Sampling(max_tokens=NUM_TOKENS, seed=SEED, temperature=0.0)
        request = Request(prompt=self.prompt, sampling=sampling, speculation=known and self.drafts)
        generation = await backend.generate(request)
        tokens = []
        async for verdict in generation:
            self.arrivals.append((time.monotonic(), len(verdict.tokens)))
            tokens += verdict.tokens
            if time.monotonic() > end_s and known:
                break
        await generation.aclose()
        return [] if known else tokens

    def _truth(self, key: int, position: int, previous: int) -> int:
        index = position - len(self.prompt)
        return self.text[index] if index < len(self.text) else 0

    def rate(self, start_s: float, end_s: float) -> float:
        tokens = sum(number for when, number in self.arrivals if start_s <= when < end_s)
        return tokens / (end_s - start_s)


def _work(jobs: Sequence[DraftJob]) -> None:
    time.sleep(DRAFT_TIME_S)


async def run(edges: Sequence[Edge], time_s: float) -> tuple[float, float]:
    """All of them side by side; returns the part of the time in which all were warm."""
    start_s = time.monotonic() + WARM_S
    end_s = start_s + time_s
    await asyncio.gather(*(edge.run(number, end_s) for number, edge in enumerate(edges)))
    return start_s, end_s


def measure(
    address: str, prompts: list[list[int]], texts: list[list[int]], kind: Kind, time_s: float
) -> float:
    """Tokens a second of an honest edge, on average."""
    edges = [Edge(address, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    honest, more = edges[:NUM_HONEST], edges[NUM_HONEST:]
    for edge in more:
        edge.lies, edge.drafts = kind == "liars", kind != "plain"
    span = asyncio.run(run(honest if kind == "none" else edges, time_s))
    return sum(edge.rate(*span) for edge in honest) / NUM_HONEST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured for each kind")
    options = parser.parse_args()
    held_out = json.loads((TINY / "prompts.json").read_text())
    tokenizer = Tokenizer(TINY / "target")
    chosen = random.Random(SEED).sample([p["prompt"] for p in held_out], NUM_HONEST + NUM_MORE)
    prompts = [tokenizer.encode(prompt) for prompt in chosen]
    found: dict[str, float] = {}
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            "--http.port=0",
            "--grpc.port=0",
            "--scheduling.policy=wisp",
            f"--slo.tokens_per_s={RATE}",
        )
        with Process("server", *flags, f"--estimator.state_dir={folder}") as server:
            address = f"127.0.0.1:{server.facts['grpc']}"
            with console.status("recording the target's texts"):
                first = [Edge(address, prompt) for prompt in prompts]
                asyncio.run(run(first, 0.0))
            texts = [edge.text for edge in first]
            kinds: tuple[Kind, ...] = ("none", "plain", "liars")
            for kind in kinds:
                with console.status(f"{NUM_HONEST} honest edges, five more: {kind}"):
                    found[kind] = measure(address, prompts, texts, kind, options.seconds)
    about = setting(SEED, acceptance=ACCEPTANCE, draft_time_s=DRAFT_TIME_S)
    result: dict[str, Any] = {
        "tokens_per_s": found,
        "liars_to_plain": found["liars"] / found["plain"],
        "liars_to_none": found["liars"] / found["none"],
    }
    if options.json:
        print(json.dumps({"setting": about, **result}))
        return
    print(describe(about))
    for name, rate in found.items():
        print(f"{NUM_HONEST} honest edges, five more: {name}: {rate:.2f} tokens/s each")
    print(f"beside liars {result['liars_to_plain']:.3f} x of beside plain users")


if __name__ == "__main__":
    main()
