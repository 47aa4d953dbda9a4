"""An edge against plain decoding by the server, at several distances between the two.

    python -m benchmarks.distance [--json] [--policy wisp] [--requests 16] [--temperature 0]

Real processes: a wisp-server, a proxy that makes the round trip longer, a wisp-edge. Each held-out
prompt runs twice through the edge, with drafts and without (in turns, so that other work on the
machine hits both alike).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.progress import track

from benchmarks.delay import Delay
from benchmarks.setting import describe, setting
from wisp.config import TINY
from wisp.launch import Process

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
MAX_TOKENS = 96
ROUND_TRIPS_S = (0.0, 0.02, 0.08)
NUM_WARM = 2  # requests before the clock counts


class Sums:
    """Over the requests of one kind."""

    def __init__(self) -> None:
        self.tokens = self.steps = self.accepted = self.drafted = 0
        self.time_s = 0.0

    def add(self, usage: dict[str, Any], time_s: float) -> None:
        self.tokens += usage["completion_tokens"]
        self.time_s += time_s
        self.steps += usage["wisp"]["steps"]

    @property
    def rate(self) -> float:
        return self.tokens / self.time_s


def ask(edge: Process, prompt: str, drafts: bool, temperature: float) -> tuple[Any, float]:
    body = {
        "model": "target",
        "prompt": prompt,
        "max_tokens": MAX_TOKENS,
        "seed": SEED,
        "temperature": temperature,
        "wisp": {"speculation": drafts},
    }
    start_s = time.perf_counter()
    answer = httpx.post(f"{edge.url}/v1/completions", json=body, timeout=120).raise_for_status()
    return answer.json()["usage"], time.perf_counter() - start_s


def measure(
    server: Process, round_trip_s: float, prompts: list[str], temperature: float, log: Path
) -> dict[str, float]:
    sums = {True: Sums(), False: Sums()}
    with (
        Delay(f"127.0.0.1:{server.facts['grpc']}", round_trip_s) as far,
        Process("edge", f"--server={far.address}", "--http.port=0", log=log) as edge,
    ):
        name = f"round trip {1000 * round_trip_s:.0f} ms"
        for index, prompt in enumerate(track(prompts, description=name, transient=True)):
            for drafts in (index % 2 == 0, index % 2 == 1):
                usage, time_s = ask(edge, prompt, drafts, temperature)
                if index >= NUM_WARM:
                    sums[drafts].add(usage, time_s)
    return {
        "tokens_per_s": sums[True].rate,
        "plain_tokens_per_s": sums[False].rate,
        "ratio": sums[True].rate / sums[False].rate,
        "tokens_per_step": sums[True].tokens / sums[True].steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--policy", default="wisp", help="of the server")
    parser.add_argument("--requests", type=int, default=16, help="pairs at each distance")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    held_out = json.loads((TINY / "prompts.json").read_text())
    prompts = [p["prompt"] for p in held_out if p["kind"] == "text"][: options.requests + NUM_WARM]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--http.port=0", "--grpc.port=0", f"--scheduling.policy={options.policy}"]
        flags.append(f"--estimator.state_dir={folder}")
        with Process("server", *flags) as server:
            for round_trip_s in ROUND_TRIPS_S:
                log = Path(folder) / "edge.log"
                found[f"{1000 * round_trip_s:.0f}ms"] = measure(
                    server, round_trip_s, prompts, options.temperature, log
                )
    about = setting(
        SEED, policy=options.policy, temperature=options.temperature, max_tokens=MAX_TOKENS
    )
    near = found["0ms"]["tokens_per_s"]
    if options.json:
        print(json.dumps({"setting": about, "round_trips": found}))
        return
    print(describe(about))
    for name, figures in found.items():
        print(
            f"{name}: {figures['tokens_per_s']:.1f} tokens/s with drafts "
            f"({figures['tokens_per_step']:.2f} a step), {figures['plain_tokens_per_s']:.1f} "
            f"without: {figures['ratio']:.2f} x; {figures['tokens_per_s'] / near:.2f} of 0 ms"
        )


if __name__ == "__main__":
    main()
