"""`python -m benchmarks.faults --seed N`: texts and answers under random faults."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from benchmarks.faults.campaign import Campaign, Outcome
from benchmarks.faults.virtual import run
from wisp.padding import Padding


def report(outcome: Outcome, seed: int, num_files: int, took_s: float) -> None:
    faults = ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items()))
    print(f"seed {seed}: {outcome.num_tokens} tokens of {outcome.num_requests} requests")
    print(f"{sum(outcome.faults.values())} faults ({faults}), {outcome.num_resumes} resumes")
    print(
        f"whole {outcome.num_whole}, cancelled {outcome.num_cancelled}, "
        f"refused {outcome.num_refused}, ended with a reason {outcome.num_ended}"
    )
    print(
        f"wrong {len(outcome.wrong)}, lost {len(outcome.lost)}, doubled {len(outcome.doubled)}, "
        f"left over {len(outcome.leftovers)}, descriptors left {num_files}"
    )
    print(f"{outcome.seconds:.0f} s of virtual time in {took_s:.0f} s")
    for what in (outcome.wrong, outcome.lost, outcome.doubled, outcome.leftovers):
        for line in what[:5]:
            print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--padding", type=int, default=512, help="bytes; of every fourth edge")
    parser.add_argument("--interval-s", type=float, default=0.05, help="of padded messages")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level="INFO" if asked.verbose else "CRITICAL", stream=sys.stderr)
    logging.getLogger("wisp.engine.client").disabled = not asked.verbose
    before = len(os.listdir("/proc/self/fd"))
    start_s = time.perf_counter()
    padding = Padding(asked.padding, asked.interval_s) if asked.padding else None
    outcome = run(Campaign(asked.seed, asked.tokens, padding).run)
    num_files = len(os.listdir("/proc/self/fd")) - before
    report(outcome, asked.seed, num_files, time.perf_counter() - start_s)
    return 0 if outcome.clean and num_files <= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
