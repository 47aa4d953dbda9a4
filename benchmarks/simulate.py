"""The paper's set-up in a simulated fleet: capacity and goodput of every policy.

    python -m benchmarks.simulate [--law measured|paper] [--rates 2 4 6 8] [--json]

Devices of four kinds share one A100-80GB that serves a 32B model; the engine, the policies, the
estimator and the edges' streams are the real ones, time is virtual (`wisp/sim`). Capacity is the
most devices with which at least 95 % of the sessions got what they were promised; goodput is that
of the rate of 8 tokens/s at the load where it is highest. docs/measurements.md tells what is
assumed.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from wisp import __version__
from wisp.core import Slo
from wisp.scheduler.policy import PolicyName
from wisp.sim.fleet import Setup, Tuning, learn, simulate
from wisp.sim.law import A100, QWEN3_32B, implied_by_paper, roofline
from wisp.sim.text import BetaTexts

SEED = 1
ATTAINED = 0.95
FIRST_TOKEN_S = 2.0
POLICIES: tuple[PolicyName, ...] = ("wisp", "wisp-paper", "sled", "centralized")
RATES = (2.0, 4.0, 6.0, 8.0)
LAWS = {
    "measured": roofline(A100, QWEN3_32B),
    "paper": implied_by_paper(A100, QWEN3_32B),
}
PAPER_CAPACITY = {
    "wisp": {2.0: 164, 4.0: 142, 6.0: 103, 8.0: 86},
    "centralized": {2.0: 97, 4.0: 80, 6.0: 54, 8.0: 41},
    "sled": {2.0: 83, 4.0: 42, 6.0: 27, 8.0: 21},
}
PAPER_GOODPUT = {"wisp": 631.86, "centralized": 326.12, "sled": 170.82}

# Each baseline gets the best of these at every load. A batch of `sled` is taken when it is full or
# its first member has waited, so a large one with a short wait is continuous batching in all but
# name; prompts are prefilled in chunks beside it.
TUNINGS: dict[str, tuple[Tuning, ...]] = {
    "wisp": (Tuning(),),
    "wisp-paper": (Tuning(window=4), Tuning(window=8)),
    "centralized": (Tuning(), Tuning(max_step_tokens=128), Tuning(max_step_tokens=512)),
    "sled": tuple(
        Tuning(block_tokens=length, batch_size=size, batch_wait_s=wait_s)
        for length in (1, 2, 4, 8)
        for size, wait_s in ((8, 0.02), (32, 0.02))
    ),
}


class Run(NamedTuple):
    policy: PolicyName
    num_devices: int
    setup: Setup
    tuning: Tuning


class Point(NamedTuple):
    """What one simulation says."""

    attainment: float
    goodput: float
    tokens_per_s: float
    tokens_per_step: float
    seats_per_step: float
    busy: float


def point(run: Run) -> Point:
    estimator = learn(run.setup, run.tuning)
    report = simulate(run.policy, run.num_devices, run.setup, run.tuning, estimator=estimator)
    return Point(
        report.attainment,
        report.goodput,
        report.tokens_per_s,
        report.tokens_per_step,
        report.seats_per_step,
        report.busy,
    )


def capacity(policy: PolicyName, setup: Setup, tuning: Tuning, most: int) -> int:
    """The most devices, to within 2 %, that hold `ATTAINED`; every load has the same seed.

    Doubling finds a load that fails, halving the edge below it: attainment falls with the load but
    for noise, and the same devices ask for the same at every load.
    """
    held, failed = 0, most + 1
    count = min(most, 16)
    while failed - held > max(1, held // 50):
        if point(Run(policy, count, setup, tuning)).attainment >= ATTAINED:
            held = count
        else:
            failed = count
        count = min(most, 2 * held) if failed > most else (held + failed) // 2
        if held >= most:
            break
    return held


def best_capacity(policy: PolicyName, setup: Setup, most: int = 512) -> tuple[int, Tuning]:
    """The capacity of the tuning that has the highest."""
    found = [(capacity(policy, setup, tuning, most), tuning) for tuning in TUNINGS[policy]]
    return max(found, key=lambda pair: pair[0])


def setup_of(law: str, rate: float, acceptance: float, seconds: float, seed: int) -> Setup:
    return Setup(
        law=LAWS[law],
        slo=Slo(tokens_per_s=rate, first_token_s=FIRST_TOKEN_S, name=f"{rate:g}"),
        texts=BetaTexts(acceptance),
        measured_s=seconds,
        seed=seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--law", choices=LAWS, default="measured", help="what a step takes")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="tokens/s promised")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    parser.add_argument("--acceptance", type=float, default=0.7, help="of a draft token, mean")
    parser.add_argument("--seconds", type=float, default=100.0, help="of virtual time, measured")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps({"setting": _setting(options), **figures}))
        return
    print(", ".join(f"{name} {value}" for name, value in _setting(options).items()))
    for line in _table(figures, options.policies, options.rates):
        print(line)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    cells = [(policy, rate) for rate in options.rates for policy in options.policies]
    setups = [
        setup_of(options.law, rate, options.acceptance, options.seconds, options.seed)
        for _, rate in cells
    ]
    found: dict[str, dict[str, int]] = {policy: {} for policy in options.policies}
    tunings: dict[str, dict[str, str]] = {policy: {} for policy in options.policies}
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = pool.map(best_capacity, [policy for policy, _ in cells], setups)
        for (policy, rate), (devices, tuning) in zip(cells, results, strict=True):
            found[policy][f"{rate:g}"] = devices
            tunings[policy][f"{rate:g}"] = _short(tuning)
    return {"capacity": found, "tuning": tunings}


def _short(tuning: Tuning) -> str:
    default = Tuning()
    return ", ".join(
        f"{name} {getattr(tuning, name):g}"
        for name in Tuning.__slots__
        if getattr(tuning, name) != getattr(default, name)
    )


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    law = LAWS[options.law]
    return {
        "wisp": __version__,
        "law": options.law,
        "acceptance": options.acceptance,
        "kv_tokens": Setup().kv_tokens,
        "floor_ms": round(1e3 * law.floor_s, 2),
        "token_ms": round(1e3 * law.token_s, 3),
        "seat_ms": round(1e3 * law.seat_s, 3),
        "measured_s": options.seconds,
        "seed": options.seed,
    }


def _table(
    figures: dict[str, Any], policies: Sequence[str], rates: Sequence[float]
) -> Iterator[str]:
    found = figures["capacity"]
    yield f"{'capacity at tokens/s':24}" + "".join(f"{rate:>8g}" for rate in rates)
    for policy in policies:
        yield f"{policy:24}" + "".join(f"{found[policy][f'{rate:g}']:>8}" for rate in rates)
        if policy in PAPER_CAPACITY:
            yield f"{'  in the paper':24}" + "".join(
                f"{PAPER_CAPACITY[policy].get(rate, '-'):>8}" for rate in rates
            )
    if "wisp" not in policies:
        return
    for policy in policies:
        if policy == "wisp":
            continue
        ratios = [found["wisp"][f"{r:g}"] / max(1, found[policy][f"{r:g}"]) for r in rates]
        yield f"{'wisp / ' + policy:24}" + "".join(f"{ratio:>8.2f}" for ratio in ratios)


if __name__ == "__main__":
    main()
