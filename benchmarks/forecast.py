"""How well a running server forecasts its own steps, from its metrics.

    python -m benchmarks.forecast [--json] [--requests 24] [--profile-s 10]

A `wisp-server` with the policy `wisp` profiles the bundled target, then answers requests, half of
them through an edge with its drafter, 1, 4 and 16 at a time. Errors are of predictions made before
each step, relative to the prediction; the server learns from every step as it goes. `restarted` is
the same server started again with what it has learned. `noise_mape` is what the very same step,
taken again and again, differs from its median by: nobody can forecast better on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from typing import Any

import httpx

from benchmarks.setting import describe, setting
from wisp.config import TINY, ServerConfig
from wisp.core.batch import Batch, Seat
from wisp.core.request import Sampling
from wisp.core.session import Session
from wisp.core.slo import Slo
from wisp.engine.build import build_verifier
from wisp.launch import Process

SEED = 7  # of everything drawn at random here; chosen: any number does, and one makes it repeatable
MAX_TOKENS = 48
AT_ONCE = (1, 4, 16)
NUM_REPEATS = 200
# A rate so low that nobody is refused, however slow the machine.
SAMPLING = {"temperature": 0.0, "wisp": {"slo": {"tokens_per_s": 1.0, "first_token_s": 10.0}}}
_COUNTERS = {
    "steps": "wisp_step_error_ratio_count",
    "error": "wisp_step_error_ratio_sum",
    "over": "wisp_step_over_upper_total",
    "step_s": "wisp_step_seconds_sum",
    "tokens": "wisp_step_tokens_sum",
    "sessions": "wisp_step_sessions_sum",
}


def read(server: Process) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").text
    found = {name: re.search(rf"^{key} (\S+)$", text, re.M) for name, key in _COUNTERS.items()}
    return {name: float(match[1]) if match else 0.0 for name, match in found.items()}


async def answer(processes: list[Process], prompts: list[str], at_once: int) -> None:
    """All prompts, by turns to each of the processes, `at_once` at a time."""
    room, model = asyncio.Semaphore(at_once), processes[-1].facts["model"]
    async with httpx.AsyncClient(timeout=300.0) as client:

        async def ask(number: int, prompt: str) -> None:
            process = processes[number % len(processes)]
            body = {"prompt": prompt, "model": model, "max_tokens": MAX_TOKENS, "seed": SEED}
            async with room:
                reply = await client.post(f"{process.url}/v1/completions", json=body | SAMPLING)
                reply.raise_for_status()

        await asyncio.gather(*(ask(number, prompt) for number, prompt in enumerate(prompts)))


def measure(server: Process, edge: Process, prompts: list[str], at_once: int) -> dict[str, float]:
    before = read(server)
    asyncio.run(answer([edge, server], prompts, at_once))
    after = read(server)
    grown = {name: after[name] - before[name] for name in after}
    steps = grown["steps"]
    return {
        "at_once": at_once,
        "steps": steps,
        "step_ms": 1e3 * grown["step_s"] / steps,
        "sessions": grown["sessions"] / steps,
        "tokens": grown["tokens"] / steps,
        "mape": 100.0 * grown["error"] / steps,
        "over_upper": grown["over"] / steps,
    }


def noise_mape() -> float:
    """Of a step of one session with one token: in percent, as the other errors."""
    verifier = build_verifier(ServerConfig())
    slo = Slo(tokens_per_s=1.0, first_token_s=1.0)
    session = Session(1, [7] * 100, Sampling(max_tokens=10, seed=SEED), slo)
    verifier.open(session)
    verifier.step(Batch([Seat(session, 100)]))
    session.computed(99)
    times_s = []
    for _ in range(NUM_REPEATS):
        start_s = time.perf_counter()
        verifier.step(Batch([Seat(session, 1)]))  # the last token again: nothing is committed
        times_s.append(time.perf_counter() - start_s)
    verifier.shutdown()
    median_s = statistics.median(times_s)
    return 100.0 * statistics.mean(abs(time_s / median_s - 1.0) for time_s in times_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=24, help="requests of each load")
    parser.add_argument("--profile-s", type=float, default=10.0, help="length of the profile")
    options = parser.parse_args()
    held_out = json.loads((TINY / "prompts.json").read_text())
    prompts = [p["prompt"] for p in held_out if p["kind"] == "text"][: options.requests]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--http.port=0",
            "--grpc.port=0",
            "--scheduling.policy=wisp",
            f"--estimator.profile_s={options.profile_s}",
            f"--estimator.state_dir={folder}",
        ]
        for name, loads in {"profiled": AT_ONCE, "restarted": AT_ONCE[1:2]}.items():
            with Process("server", *flags) as server:
                address = f"--server=127.0.0.1:{server.facts['grpc']}"
                with Process("edge", address, "--http.port=0") as edge:
                    result[name] = [measure(server, edge, prompts, number) for number in loads]
    noise = {"noise_mape": round(noise_mape(), 1)}
    facts = setting(SEED, max_tokens=MAX_TOKENS, profile_s=options.profile_s, **noise)
    if options.json:
        print(json.dumps({"setting": facts, **result}))
        return
    print(describe(facts))
    for name, rows in result.items():
        for row in rows:
            print(
                f"{name:9} {row['at_once']:2} at once: {row['steps']:.0f} steps of "
                f"{row['sessions']:.1f} sessions, {row['tokens']:.1f} tokens, "
                f"{row['step_ms']:.1f} ms; error {row['mape']:.1f} %, "
                f"{row['over_upper']:.1%} above the bound"
            )


if __name__ == "__main__":
    main()
